"""Errors for users: what was got, what was expected, and the cure, in one line."""

import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import TypeVar

T = TypeVar("T")


class MmardError(Exception):
    """An error of the user's input. The command line prints it as one line and exits with 2."""


class Note(UserWarning):
    """A note that is good to know and no fault. The command line shows it as a note."""


class Interrupted(Exception):  # noqa: N818, it is none
    """The user stopped a command; the message says how to continue."""


def as_mistake(e: Exception) -> Exception:
    """Turn an exception that the user can mend (missing files, no memory) into a MmardError; return others as they are.

    >>> as_mistake(MemoryError())
    MmardError('out of memory (MemoryError); choose a smaller batch, model or image size')
    """
    if isinstance(e, MmardError):
        return e
    if is_out_of_memory(e):
        return MmardError(f"out of memory ({first_line(e)}); choose a smaller batch, model or image size")
    if isinstance(e, RuntimeError) and "home directory" in str(e):  # pathlib's, of ~ and a name
        return MmardError("a path begins with ~ and a user who has no home here; write the whole path")
    return MmardError(str(e)) if isinstance(e, OSError) else e


@contextmanager
def failing_in_one_line(what: str) -> Iterator[None]:
    """Turn whatever somebody's code raises in this context into a MmardError with its file and line; no memory stays as it is."""
    try:
        yield
    except MmardError:
        raise
    except Exception as e:
        if is_out_of_memory(e):
            raise
        last = traceback.extract_tb(e.__traceback__)[-1]
        place = f"{last.filename}, line {last.lineno}"
        raise MmardError(f"{what} fails ({place}): {type(e).__name__}: {first_line(e)}") from e


def is_out_of_memory(e: BaseException) -> bool:
    """Tell whether an exception means that memory ran out, on any device; each library words it differently."""
    words = ("out of memory", "can't allocate memory", "alloc_cpu", "Unable to allocate", "bad_alloc", "bad allocation")
    kinds = "OutOfMemoryError", "_ArrayMemoryError"
    if isinstance(e, MemoryError) or type(e).__name__ in kinds:
        return True
    sizes = ("Storage size calculation overflowed", "numel: integer multiplication overflow")
    return isinstance(e, RuntimeError) and any(part in str(e) for part in (*words, *sizes))


def unknown(kind: str, got: str, known: Iterable[str], cure: str = "") -> MmardError:
    """Make the error for a name that does not exist, with the nearest names first.

    >>> print(unknown("method", "rslda", ["ard", "rslad"]))
    unknown method 'rslda'; did you mean rslad? known: ard, rslad
    >>> print(unknown("setting", "eps", ["attack.steps", "seed", "threat.eps"]))
    unknown setting 'eps'; did you mean threat.eps? known: attack.steps, seed, threat.eps
    """
    names, word = sorted(known), str(got).lower()
    if not names:
        return MmardError(f"unknown {kind} {got!r}; there are none{'; ' + cure if cure else ''}")
    same = [name for name in names if word in (name.lower(), name.lower().rpartition(".")[2])]
    by_lower = {name.lower(): name for name in names}
    near = same or [by_lower[name] for name in get_close_matches(word, by_lower, n=3, cutoff=0.5)]
    hint = f"; did you mean {' or '.join(near)}?" if near else ";"
    return MmardError(f"unknown {kind} {got!r}{hint} known: {', '.join(names)}{'; ' + cure if cure else ''}")


def first_line(e: Exception) -> str:
    """Summarise an exception in its first line."""
    text = e.strerror if isinstance(e, OSError) and e.strerror else str(e)
    return text.strip().splitlines()[0] if text.strip() else type(e).__name__


def chosen(kind: str, name: str, candidates: Mapping[str, T]) -> T:
    """Return the candidate of that name; raise MmardError with all names where there is none."""
    if name not in candidates:
        raise unknown(kind, name, candidates)
    return candidates[name]
