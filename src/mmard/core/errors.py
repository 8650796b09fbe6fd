"""The one exception a user sees: what was got, what was expected, and the cure."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TypeVar

T = TypeVar("T")


class MmardError(Exception):
    """A mistake in the input. The command line prints it as one line and exits with 2."""


class Note(UserWarning):
    """A line that is good to know and no fault. The command line shows it as a note."""


def unknown(kind: str, got: str, known: Iterable[str], cure: str = "") -> MmardError:
    """An error for a name that does not exist, with the nearest names first.

    >>> print(unknown("method", "rslda", ["ard", "rslad"]))
    unknown method 'rslda'; did you mean rslad? known: ard, rslad
    """
    names = sorted(known)
    near = get_close_matches(got, names, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else ";"
    return MmardError(f"unknown {kind} {got!r}{hint} known: {', '.join(names)}{'; ' + cure if cure else ''}")


def first_line(e: Exception) -> str:
    """What went wrong elsewhere, in one line."""
    text = e.strerror if isinstance(e, OSError) and e.strerror else str(e)
    return text.strip().splitlines()[0] if text.strip() else type(e).__name__


def chosen(kind: str, name: str, candidates: Mapping[str, T]) -> T:
    """The candidate of that name, or the error that names them all."""
    if name not in candidates:
        raise unknown(kind, name, candidates)
    return candidates[name]
