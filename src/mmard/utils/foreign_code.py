"""Code of the user: functions of his files and packages by name, and calls of them whose failures are one line."""

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

from mmard.utils.errors import MmardError, first_line, unknown

T = TypeVar("T")


def function_at(name: str, file: Path | None = None) -> Callable[..., Any]:
    """Import ``file.py:function`` or ``module:function``, which runs its code: only for what the caller has typed or trusts.

    Args:
        file: where the code lies now, if not at the place in the name.

    Raises:
        MmardError: when there is none, with the nearest names; or where its file or module cannot be imported.
    """
    place, _, function = name.rpartition(":")
    module = _from_file(file or Path(place).expanduser()) if place.endswith(".py") else _imported(place)
    found = getattr(module, function, None)
    if not callable(found):
        have = [n for n, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == module.__name__]
        raise unknown(f"function in {place}", function, have)
    return found  # type: ignore[no-any-return]


def run_foreign(call: Callable[[], T], place: str, what: str = "cannot be imported") -> T:
    """Call foreign code; whatever it raises becomes a MmardError that names the ``place`` and ``what`` failed.

    What it changes for the whole process comes back: the working folder, the type and the device of new
    tensors, and whether gradients are taken.
    """
    try:
        with _process_kept():
            return call()
    except MmardError:
        raise
    except SystemExit as e:
        cure = "what is to run by itself belongs under if __name__ == '__main__':"
        raise MmardError(f"{place} {what}: it ends the program (sys.exit); {cure}") from e
    except Exception as e:
        raise MmardError(f"{place} {what}: {type(e).__name__}: {first_line(e)}") from e


@contextmanager
def _process_kept() -> Iterator[None]:
    """Give back the working folder and torch's defaults, where code inside changes them."""
    folder, before = Path.cwd(), _defaults()
    try:
        yield
    finally:
        if Path.cwd() != folder:
            os.chdir(folder)
        if _defaults() != before:
            kind, device, gradients = before
            torch.set_default_dtype(kind)
            torch.set_grad_enabled(gradients)
            torch.set_default_device(None if device.type == "cpu" else device)


def _defaults() -> tuple[torch.dtype, torch.device, bool]:
    """Return the type and the device of new tensors, and whether gradients are taken."""
    return torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled()


def _from_file(path: Path) -> Any:
    """Run a file as a module: its source, and never compiled code that lies beside it and may be another's."""
    if not path.is_file():
        raise MmardError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"user_{path.stem}", path)
    assert spec is not None  # a .py file has a spec
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    run_foreign(lambda: exec(compile(path.read_bytes(), str(path), "exec"), vars(module)), str(path))
    return module


def _imported(place: str) -> Any:
    return run_foreign(lambda: importlib.import_module(place), place)
