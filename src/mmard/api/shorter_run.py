"""A recipe's moments of a run, in epochs, where the run has fewer: they become shares of it."""

from collections.abc import Iterator, Mapping
from typing import Any

from mmard.api.registry import spec_of
from mmard.training.schedule import Plan
from mmard.utils.numbers import parse_number

MOMENTS = ("train.hold", "train.milestones", "averaging.start", "data.augment_late.after")
"""Settings that are in epochs from 1 on, and shares of the run below; so are ``begin`` and ``drops`` of a method and its bases."""


def as_shares(raw: Mapping[str, Any], changes: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Convert the moments of a recipe to shares of its run, where ``changes`` ask for so few epochs that one never comes.

    Those that ``changes`` name themselves are left alone.

    Returns:
        The new values by dotted key, and a note of what became what; nothing where all moments come.
    """
    planned, epochs = (
        _numbers(each) for each in (_at(raw, "train.epochs") or Plan().epochs, changes.get("train.epochs"))
    )
    if not planned or not epochs:
        return {}, ()
    values = {
        key: value for key, value in _moments(raw) if not any(f"{key}.".startswith(f"{given}.") for given in changes)
    }
    found = {
        key: numbers for key, value in values.items() if 1 <= max(numbers := _numbers(value), default=0) < planned[0]
    }
    if all(max(numbers) < epochs[0] for numbers in found.values()):
        return {}, ()
    shares = {key: [each / planned[0] if each >= 1 else each for each in numbers] for key, numbers in found.items()}
    became = ", ".join(f"{key} {_listed(found[key])} → {_listed(numbers)}" for key, numbers in shares.items())
    note = (
        f"train.epochs={epochs[0]:g} is less than the recipe's {planned[0]:g}: what it says in epochs is a share of the run now, "
        f"{became}"
    )
    return {key: each if isinstance(values[key], list | tuple) else each[0] for key, each in shares.items()}, (note,)


def _moments(raw: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the moments of a run by dotted key; by such words a method of one's own may mean something else."""
    for key in MOMENTS:
        yield key, _at(raw, key)
    key, method = "method", raw.get("method")
    while isinstance(method, str | dict):
        spec = spec_of(method)
        if ":" not in str(spec.get("name")):
            yield from ((f"{key}.{word}", spec.get(word)) for word in ("begin", "drops"))
        key, method = f"{key}.base", spec.get("base")


def _at(raw: Mapping[str, Any], key: str) -> Any:
    found: Any = raw
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _numbers(value: Any) -> list[float]:
    """Read a number, or a list of them; what is none is refused with the rest of the settings."""
    try:
        return [parse_number(each) for each in (value if isinstance(value, list | tuple) else [value])]
    except ValueError:
        return []


def _listed(moments: list[float]) -> str:
    words = [f"{each:.4g}" for each in moments]
    return words[0] if len(words) == 1 else f"[{', '.join(words)}]"
