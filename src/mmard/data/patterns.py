"""Paths and patterns of the files of a data set."""

import glob
from collections.abc import Sequence
from pathlib import Path

from mmard.utils.errors import MmardError
from mmard.utils.safe_open import must_be_itself


def patterns_of(given: str | Sequence[str], key: str) -> list[str]:
    """Make patterns for the datasets library; a path that exists stands for itself, whatever its letters mean in a pattern.

    Args:
        key: of the setting, in messages: ``train`` or ``test``.

    Raises:
        MmardError: for a folder, and for a file that is not there; what a pattern or an address names is left to the reading.
    """
    patterns = []
    for one in [given] if isinstance(given, str) else given:
        path = Path(one).expanduser()
        if path.is_dir():
            raise MmardError(f"data.{key}={one} is a folder; give its files: 'data.{key}={one}/*.parquet'")
        must_be_itself(path)
        if not (path.exists() or "://" in one or set(one) & set("*?[{")):
            cure = f"give data.{key}=FILE, or other data: data.name=uoft-cs/cifar10, say (docs/data.md)"
            raise MmardError(f"there is no file {one}, which data.{key} names; {cure}")
        patterns.append(glob.escape(str(path.absolute())) if path.exists() else one if "://" in one else str(path))
    return patterns
