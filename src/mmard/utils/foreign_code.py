"""Code of the user: functions of his files and packages by name, and calls of them whose failures are one line."""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

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
    """Call foreign code; whatever it raises becomes a MmardError that names the ``place`` and ``what`` failed."""
    try:
        return call()
    except MmardError:
        raise
    except Exception as e:
        raise MmardError(f"{place} {what}: {type(e).__name__}: {first_line(e)}") from e


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
