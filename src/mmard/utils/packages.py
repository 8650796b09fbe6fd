"""Other packages: optional ones, with the line that installs them, and versions for records and pages."""

from importlib import import_module, metadata
from typing import Any

from mmard.utils.errors import MmardError, first_line

FROM_SOURCE = "from source"


class MissingPackageError(MmardError):
    """An optional package is not installed."""


def version_of(package: str) -> str:
    """Return the installed version of a package, such as ``"0.2.0"``; ``"from source"`` for one that is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return FROM_SOURCE


def optional(name: str, extra: str, what: str) -> Any:
    """Import a module of an optional package.

    Args:
        extra: the extra of this package that brings it.
        what: whatever needs it, for the error.

    Raises:
        MissingPackageError: where it is not installed, with the line that installs it.
    """
    try:
        return import_module(name)
    except ImportError as e:
        raise MissingPackageError(f"{what} needs more packages ({first_line(e)}): pip install 'mmard[{extra}]'") from e
