"""Settings of a recipe that mean nothing once others take the place of what they are about."""

from typing import Any

from mmard.attacks.inner.compose import OF_SEVERAL_STEPS, SINGLE
from mmard.data.sources import unused


def forget_replaced(raw: dict[str, Any], overrides: dict[str, Any]) -> None:
    """Drop settings of a recipe that mean nothing beside ``overrides``, by dotted key, which are applied after this."""
    _forget_other_data(raw, overrides)
    _forget_several_steps(raw, overrides)


def _forget_other_data(raw: dict[str, Any], overrides: dict[str, Any]) -> None:
    """Drop settings of a recipe's data, where ``overrides`` name other data for which they mean nothing."""
    data, name = raw.get("data"), overrides.get("data.name")
    if isinstance(data, dict) and isinstance(name, str) and name != data.get("name", "digits"):
        for key in unused(name, list(data)):
            del data[key]


def _forget_several_steps(raw: dict[str, Any], overrides: dict[str, Any]) -> None:
    """Drop a recipe's settings of a PGD, where ``overrides`` name an attack of one step in its place."""
    attack, kind = raw.get("attack"), overrides.get("attack.kind")
    if isinstance(attack, dict) and isinstance(kind, str) and kind in SINGLE:
        for key in OF_SEVERAL_STEPS:
            attack.pop(key, None)
