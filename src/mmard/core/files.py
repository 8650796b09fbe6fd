"""Files that are whole or not there."""

import hashlib
import json
import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from mmard.core.errors import MmardError, first_line


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then move it there in one step.

    Whoever reads ``path``, also after a SIGKILL or a power cut, finds the old file or the new one, never a part.

    Raises:
        MmardError: when the disk is full or not writable; the old file is untouched.
    """
    part = path.with_name(f".{path.name}.part")  # one name: a kill leaves at most one behind
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        with part.open("rb+") as f:
            os.fsync(f.fileno())
        part.replace(path)
    except Exception as e:
        with suppress(OSError):
            part.unlink()
        if isinstance(e, OSError) or _is_disk_error(e):
            kept = "; the file from before is kept" if path.exists() else ""
            cure = "write elsewhere" if isinstance(e, PermissionError) else "free some space and start it again"
            raise MmardError(f"cannot write {path}: {first_line(e)}{kept}; {cure}") from e
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file in one step."""
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file in one step."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; anything else is one clear line."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise MmardError(f"cannot read {path}: {first_line(e)}; expected a JSON file") from e
    if not isinstance(value, dict):
        raise MmardError(f"{path} holds a {type(value).__name__}, expected a JSON object")
    return value


def load_safely(path: Path) -> Any:
    """What `torch.save` wrote, onto the CPU, tensors and plain values only: loading it can run no code. Errors are torch's own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # hints to the authors of odd pickles, not to our users
        return torch.load(path, map_location="cpu", weights_only=True)


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _is_disk_error(e: Exception) -> bool:
    """Writers in native code (safetensors, torch.save) report a full disk as errors of their own."""
    text = str(e).lower()
    return any(
        words in text for words in ("no space", "file too large", "os error", "write failed", "inline_container")
    )
