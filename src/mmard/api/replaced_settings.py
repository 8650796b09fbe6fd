"""Settings of a recipe that mean nothing once others take the place of what they are about."""

from collections.abc import Mapping
from typing import Any

from mmard.attacks.inner.compose import OF_SEVERAL_STEPS, SINGLE
from mmard.data.sources import unused

USED_BESIDE: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "train.milestones": ("train.schedule", ("piecewise",)),
    "train.decay": ("train.schedule", ("piecewise",)),
    "train.hold": ("train.schedule", ("cosine",)),
    "train.momentum": ("train.optimizer", ("sgd",)),
    "train.nesterov": ("train.optimizer", ("sgd",)),
    "averaging.decay": ("averaging.kind", ("ema",)),
    "averaging.start": ("averaging.kind", ("ema", "swa")),
    "validation.steps": ("validation.attack", ("pgd",)),
    "data.test_seed": ("data.test_split", ()),
    "teacher_recipe": ("teacher", ()),
}
"""Settings that are used only beside these values of another setting; (): beside any that is given."""

EXTRA = ("extra", "extra_ratio", "extra_labels")
"""Settings of extra training images, which no teacher learns from."""
OF_TRAINING = ("augment", "augment_late", "variants", *EXTRA)
"""Settings of data that say how images are learnt from, and not which they are."""

OF_LENGTH = frozenset({"validation.patience"})
"""Settings of a recipe that may change nothing in so short a run once another ``train.epochs`` is given."""


def forget_replaced(raw: dict[str, Any], overrides: dict[str, Any]) -> tuple[str, ...]:
    """Drop settings of a recipe that mean nothing beside ``overrides``, by dotted key, which are applied after this.

    Returns:
        A line for what may not have been meant.
    """
    _forget_other_data(raw, overrides)
    _forget_several_steps(raw, overrides)
    for key, (other, values) in USED_BESIDE.items():
        if other in overrides and not is_used(overrides[other], values):
            *sections, last = key.split(".")
            inside = raw.get(sections[0]) if sections else raw
            if isinstance(inside, dict):
                inside.pop(last, None)
    plan = raw.get("train")
    if isinstance(plan, dict) and overrides.get("train.momentum") == 0 and plan.get("nesterov") is True:
        del plan["nesterov"]
        if "train.nesterov" not in overrides:
            return ("train.momentum=0 leaves out the recipe's train.nesterov=true, which needs a momentum",)
    return ()


def is_used(value: Any, values: tuple[str, ...]) -> bool:
    """Tell whether a setting is used beside this value of the other one; see `USED_BESIDE`."""
    return value in values if values else value is not None and str(value).lower() != "none"


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
