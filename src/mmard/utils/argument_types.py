"""Type checks of the arguments of public functions: a wrong type is one line and no fault deep inside."""

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import wraps
from inspect import signature
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar, get_args

import torch
from pydantic import BeforeValidator, ConfigDict, ValidationError, validate_call

from mmard.utils.errors import MmardError, as_mistake
from mmard.utils.moved import renamed_arguments
from mmard.utils.numbers import shortened
from mmard.utils.precision import kept_tf32
from mmard.utils.validation import expectation

P = ParamSpec("P")
T = TypeVar("T")
OF_NAMES = (
    "missing_argument",
    "missing_keyword_only_argument",
    "unexpected_positional_argument",
    "unexpected_keyword_argument",
)


def public(function: Callable[P, T], name: str | None = None) -> Callable[P, T]:
    """Check the types of a function's arguments by its annotations, and tell user errors from faults of the package.

    The function works in float32 and begins on the CPU, whatever the caller has made the default of new tensors and whichever
    autocast is on, and the caller's random numbers go on as if it had drawn none.

    Args:
        name: under which users call it, for errors; None: its own.

    Raises:
        TypeError: by the new function, for an argument that is missing or not known.
        MmardError: by the new function, for a value of another type, and for files, folders and memory that are not there.
    """
    checked = validate_call(config=ConfigDict(arbitrary_types_allowed=True))(function)
    parameters, called = signature(function).parameters, name or function.__name__
    names = list(parameters)
    kinds = {name: get_args(p.annotation) or (p.annotation,) for name, p in parameters.items()}
    numbers = {name for name, kind in kinds.items() if int in kind and bool not in kind}

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        given = {key: _as_path(value) for key, value in renamed_arguments(kwargs, names).items()}
        args = tuple(map(_as_path, args))  # type: ignore[assignment]
        for name, value in (*zip(names, args, strict=False), *given.items()):
            if name in numbers and isinstance(value, bool):  # to Python, true is 1
                raise MmardError(f"{called}: {name} is {value}, expected a whole number")
        try:
            with _defaults():
                return checked(*args, **given)
        except ValidationError as e:
            raise _mistake(e, called, names) from e
        except (OSError, MemoryError, RuntimeError) as e:
            mistake = as_mistake(e)
            if mistake is e:
                raise
            raise mistake from e

    return call


def _as_path(value: Any) -> Any:
    """Take a run, or whatever else stands for a file or folder, as its path."""
    return Path(value) if isinstance(value, PathLike) and not isinstance(value, Path) else value


@contextmanager
def _defaults() -> Iterator[None]:
    """Make new tensors float32 on the CPU inside, and give the caller's defaults, generators, autocast and TensorFloat-32 back."""
    callers, elsewhere = torch.get_default_dtype(), torch.get_default_device().type != "cpu"
    # A device that nobody has used yet stays so: its generator is as new afterwards too.
    used = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with (
        torch.random.fork_rng(devices=used),
        torch.device("cpu") if elsewhere else nullcontext(),
        kept_tf32(),
        _no_autocast(),
    ):
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(callers)


@contextmanager
def _no_autocast() -> Iterator[None]:
    """Switch the caller's autocast off inside, of each kind of device that it is on for."""
    with ExitStack() as off:
        for device in ("cpu", "cuda", "mps", "xpu"):
            if torch.is_autocast_enabled(device):
                off.enter_context(torch.autocast(device, enabled=False))
        yield


def _mistake(e: ValidationError, function: str, names: list[str]) -> Exception:
    faults = e.errors()
    at = faults[0]["loc"][0] if faults[0]["loc"] else ""
    name = names[at] if isinstance(at, int) and at < len(names) else at
    if faults[0]["type"] in OF_NAMES:
        return TypeError(f"{function}: {faults[0]['msg']}: {name}")
    same = [fault for fault in faults if fault["loc"][:1] == (at,)]
    expected = dict.fromkeys(expectation(fault) for fault in same)
    words = " or ".join(word.removeprefix("expected ") for word in expected)
    return MmardError(f"{function}: {name} is {shortened(faults[0]['input'])}, expected {words}")


def comma_separated(names: Any) -> Any:
    """Join names by commas, as the command line has them; those of a set, which has no order, by the alphabet.

    >>> comma_separated(["pgd-20", "fgsm"]), comma_separated({"pgd-20", "fgsm"})
    ('pgd-20,fgsm', 'fgsm,pgd-20')
    """
    if isinstance(names, str) or not isinstance(names, Collection) or not all(isinstance(name, str) for name in names):
        return names
    ordered = sorted(names) if isinstance(names, set | frozenset) else names
    return ",".join(ordered) if ordered else "none"


Names = Annotated[str | None, BeforeValidator(comma_separated)]
"""Names with commas between them, or a list or a set of names; an empty one is ``"none"``."""
