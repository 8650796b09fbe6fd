"""The layout version of a run folder, a number in layout.txt: a folder of a newer layout is refused, not misread."""

from pathlib import Path

from mmard.utils.errors import MmardError
from mmard.utils.text_files import read_text

LAYOUT = 2
"""The version that this mmard writes. Folders of version 1 are the same without layout.txt."""
LAYOUT_FILE = "layout.txt"


def must_be_readable(folder: Path) -> None:
    """Raise MmardError for a run folder whose layout is newer than this mmard reads.

    Raises:
        MmardError: with both versions, or where the file holds none.
    """
    file = folder / LAYOUT_FILE
    try:
        version = int(read_text(file)) if file.is_file() else 1
    except (OSError, ValueError, MmardError) as e:
        raise MmardError(f"{file} holds no layout version, expected a whole number; write {LAYOUT} into it") from e
    if version > LAYOUT:
        raise MmardError(
            f"{folder} has layout version {version}, and this mmard reads versions up to {LAYOUT}; install a newer mmard"
        )
