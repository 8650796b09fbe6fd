"""Numbers as people write them, 8/255, 1e-3, 0.5; seeds; means."""

import hashlib
import math
import statistics
import sys
from collections.abc import Sequence
from typing import Any, TypeGuard

from mmard.utils.errors import MmardError


class NeverBeginsError(MmardError):
    """A part of a method would begin after the end of the run."""


def parse_number(value: Any) -> float:
    """Parse a number: ``"8/255"`` → 0.0313…

    Raises:
        ValueError: when it is no number.
    """
    if isinstance(value, bool):
        raise ValueError("expected a number such as 8/255 or 0.03")
    try:
        above, slash, below = str(value).partition("/")
        number = float(above) / float(below) if slash else float(above)
    except (ValueError, ZeroDivisionError) as e:
        raise ValueError("expected a number such as 8/255 or 0.03") from e
    if not math.isfinite(number):
        raise ValueError("expected a finite number such as 8/255 or 0.03")
    return number


def shortened(value: Any) -> str:
    """Show a user's value within a line; a whole number as one, however it was read.

    >>> shortened(-1.0), shortened(0.5)
    ('-1', '0.5')
    >>> shortened("x" * 99)
    "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…"
    """
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a number of more digits than Python writes; somebody's class
        return f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= 60 else f"{text[:59]}…"


def is_number(value: Any) -> TypeGuard[int | float]:
    """Tell whether a value is a number; true and false are none, nor is a whole number beyond all floats.

    >>> is_number(0.5), is_number(True), is_number("1"), is_number(10**400)
    (True, False, False, False)
    """
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) <= sys.float_info.max
    return isinstance(value, float)


def mean_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Compute the mean and the sample standard deviation (n − 1); a single value has none.

    >>> mean_sd([1.0, 3.0]), mean_sd([2.0])
    ((2.0, 1.4142135623730951), (2.0, None))
    """
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def must_be_whole_number(least: int = 1, **named: Any) -> None:
    """Raise MmardError unless each of these is a whole number from ``least`` on; true and false are no numbers.

    >>> must_be_whole_number(batch_size=500)

    Raises:
        MmardError: with the name of the first that is not.
    """
    for name, value in named.items():
        if not is_number(value) or not isinstance(value, int) or value < least:
            raise MmardError(f"{name} is {shortened(value)}, expected a whole number, at least {least}")


def must_lie_within(low: float, high: float, **named: Any) -> None:
    """Raise MmardError unless each of these is a number in [low, high]; true and false are none.

    Raises:
        MmardError: with the name of the first that is not.
    """
    for name, value in named.items():
        if not is_number(value) or not low <= value <= high:
            raise MmardError(f"{name} is {shortened(value)}, expected a number from {low:g} to {high:g}")


def seed_of(*parts: int | str) -> int:
    """Derive a seed from all the parts and from nothing else."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=7).digest())


def share_of_run(when: float, epochs: int) -> float:
    """Convert a moment of a run to a share of it: from 1 on it is in epochs, below 1 it is a share already."""
    return when if when < 1 else when / epochs


def beginning(what: str, when: float, epochs: int) -> float:
    """Convert the moment at which ``what`` begins to a share of the run; see `share_of_run`.

    Raises:
        NeverBeginsError: where the run is over by then.
    """
    share = share_of_run(when, epochs)
    if share >= 1:
        cure = "give a share of the run below 1, or train for longer"
        raise NeverBeginsError(f"{what} begins after {when:g} epochs, and the run has {epochs}: it never would; {cure}")
    return share
