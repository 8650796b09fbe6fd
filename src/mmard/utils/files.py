"""Atomic writes: a file is whole or not there."""

import errno
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmard.utils.errors import MmardError, first_line
from mmard.utils.safe_open import must_be_plain
from mmard.utils.text_files import parse_json, read_text

NATIVE = ("inline_container", "iostream", "PytorchStreamWriter", "write failed")
"""In what torch.save says when it cannot write."""
LEFT = 3600.0
"""Seconds after which nobody is writing a temporary file any more."""


def write_whole(path: Path, write: Callable[[Path], object], *, make_folder: bool = True) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then move it there in one step.

    Whoever reads ``path``, also after a SIGKILL or a power cut, finds the old file or the new one, never a part. Several
    processes may write it at once: each has a temporary file of its own, and the last one stays.

    Args:
        make_folder: make the folder where there is none; False: a folder that is gone is an error.

    Raises:
        MmardError: when the disk is full or not writable; the old file is untouched.
    """
    part = path.parent / f".{path.name}.{secrets.token_hex(4)}.part"
    try:
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        path.parent.stat()  # native writers say less clearly that it is gone
        _make_room(path)
        # A new file, so that no link can stand in its place.
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        mode = part.stat().st_mode
        write(part)
        if part.stat().st_mode != mode:  # safetensors puts a file of its own there, which nobody else may read
            part.chmod(mode & 0o777)
        with part.open("rb+") as f:
            os.fsync(f.fileno())
        part.replace(path)
    except Exception as e:
        code = _code(e, part)
        with suppress(OSError):
            part.unlink()
        if code is None:
            raise
        kept = "; the file from before is kept" if path.exists() else ""
        reason = first_line(e) if isinstance(e, OSError) or not code else os.strerror(code)
        raise MmardError(f"cannot write {path}: {reason}{kept}; {_cure(code, path)}") from e


def must_take_a_file(path: Path) -> None:
    """Raise MmardError where no file can be written, before the work whose result is to stand there."""
    _make_room(path)
    probe = path.with_name(f".{path.name}.probe")
    write_whole(probe, Path.touch)
    probe.unlink()


def _make_room(path: Path) -> None:
    """Remove temporary files that a kill left behind long ago; raise where a device or a pipe stands in the file's place."""
    if path.exists() and not path.is_file():
        raise MmardError(f"{path} is no plain file and cannot be replaced by one; write elsewhere")
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with suppress(OSError):
            if time.time() - part.lstat().st_mtime > LEFT:
                part.unlink()


def _code(e: Exception, part: Path) -> int | None:
    """Find the system's error number of a failed write: 0 where it is not known, None where it was no such error."""
    if isinstance(e, OSError):
        return e.errno or 0
    if found := re.search(r"os error (\d+)", str(e)):  # so safetensors
        return int(found[1])
    if not any(words in str(e) for words in NATIVE):
        return None
    try:  # torch.save does not say why: a full disk, whose part is not removed yet, says it again
        with part.with_suffix(".probe").open("wb") as f:
            f.write(bytes(1 << 20))
            os.fsync(f.fileno())
    except OSError as again:
        return again.errno or 0
    finally:
        part.with_suffix(".probe").unlink(missing_ok=True)
    return 0


def _cure(code: int, path: Path) -> str:
    if code in (errno.ENOSPC, errno.EDQUOT):
        with suppress(OSError):
            free = shutil.disk_usage(path.parent).free
            return f"free some space and start it again ({free / 1e6:,.1f} MB are free there)"
        return "free some space and start it again"
    if code == errno.ENOENT:
        return "its folder is gone: was it moved or removed?"
    if code == errno.EFBIG:
        return "a file of this size is not allowed here (see ulimit -f); write elsewhere"
    return "write elsewhere"


def write_text(path: Path, text: str, *, make_folder: bool = True) -> None:
    """Write a text file in one step; see `write_whole`."""
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8"), make_folder=make_folder)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file in one step."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """Write a value as the text of a JSON file."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raise MmardError for anything else."""
    value = parse_json(read_text(path), str(path))
    if not isinstance(value, dict):
        raise MmardError(f"{path} holds a {type(value).__name__}, expected a JSON object")
    return value


def load_safely(path: Path, *, mapped: bool = False) -> Any:
    """Read onto the CPU what `torch.save` wrote: tensors and plain values only, so it can run no code.

    Errors are torch's own.

    Args:
        mapped: leave tensors on disk until they are used.
    """
    import torch  # seconds, which whoever reads and writes text alone need not wait

    must_be_plain(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # hints to the authors of odd pickles, not to our users
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


def state_of(path: Path) -> tuple[int, ...]:
    """Return the part of a file's metadata that changes when it is written anew: a key for caches."""
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def sha256(path: Path) -> str:
    """Compute the SHA-256 of a file, as hex."""
    must_be_plain(path)
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def must_be_same(what: str, before: str | None, now: str | None, work: str) -> None:
    """Raise MmardError where a file has another SHA-256 after some work on it than ``before`` it was loaded.

    Args:
        work: what was done with it, such as ``"the evaluation"``.
    """
    if now != before:
        digests = [str(digest)[:12] for digest in (before, now)]
        raise MmardError(
            f"{what} was replaced during {work}: its SHA-256 was {digests[0]}… and is {digests[1]}…, expected one and the "
            f"same; nothing was written; start {work} again when its training is done"
        )
