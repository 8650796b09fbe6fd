"""Safe opening of files in anybody's folders: no pipe is waited for, and no link is followed for writing."""

import fcntl
import os
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from mmard.utils.errors import MmardError, first_line

KINDS = ((stat.S_ISFIFO, "a pipe"), (stat.S_ISDIR, "a folder"), (stat.S_ISSOCK, "a socket"))


def must_be_plain(path: Path) -> None:
    """Raise MmardError for a pipe, a folder, a socket or a device in a file's place: reading it might never end.

    Files that are missing or inaccessible are left to the code that opens them.

    Raises:
        MmardError: with what it is.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return
    _must_be_plain(path, mode)


STAND_INS = {
    rb"version https://git-lfs\.": (
        "is a pointer of Git LFS and not the file itself",
        "download it again (git lfs pull)",
    ),
    rb"\s*(<!doctype html|<html)": ("is a web page and not the file itself", "download it again, by its direct link"),
}
"""How what stands in the place of a download begins; what to say of it, and its cure."""


def must_be_itself(path: Path) -> None:
    """Raise MmardError for what a download leaves in a large file's place: a pointer of Git LFS, or a web page.

    Files that are missing or unreadable are left to the code that opens them.

    Raises:
        MmardError: with what it is.
    """
    must_be_plain(path)
    with suppress(OSError, ValueError), path.open("rb") as f:
        begin = f.read(200).removeprefix(b"\xef\xbb\xbf").lower()
        for pattern, (what, cure) in STAND_INS.items():
            if re.match(pattern, begin):
                raise MmardError(f"{path} {what}; {cure}")


def open_to_append(path: Path) -> IO[str]:
    """Open a text file for reading and appending, made where there is none; a link in its place is not followed.

    Raises:
        MmardError: for a link, and for what is no file.
        OSError: when it may not be written.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        number = os.open(path, flags, 0o666)
    except OSError as e:
        if path.is_symlink():
            raise MmardError(f"{path} is a link; nothing is written through it: remove it") from e
        must_be_plain(path)  # a socket, say, which cannot be opened
        raise
    try:
        _must_be_plain(path, os.fstat(number).st_mode)
    except MmardError:
        os.close(number)
        raise
    return os.fdopen(number, "a+", encoding="utf-8")


@contextmanager
def alone_in(folder: Path, cure: str) -> Iterator[None]:
    """Lock a folder against other processes; the lock goes with the process, however that ends, and leaves no file.

    Raises:
        MmardError: where another process is there, with the cure.
    """
    with ExitStack() as held:
        with suppress(OSError):  # one that cannot be made or locked: whoever writes there says it better
            folder.mkdir(parents=True, exist_ok=True)
            number = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
            held.callback(os.close, number)
            try:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as e:
                raise MmardError(f"another process is writing in {folder}; {cure}") from e
        yield


def must_stay_in(folder: Path, path: Path) -> None:
    """Raise MmardError where a link leads from a place in the folder out of it, before a write or removal there.

    Raises:
        MmardError: with where it leads.
    """
    try:
        leads = path.resolve()
        stays = leads.is_relative_to(folder.resolve())
    except (OSError, RuntimeError) as e:  # a link to itself
        raise MmardError(f"cannot write in {path}: {first_line(e)}") from e
    if not stays:
        raise MmardError(
            f"{path} leads out of {folder}, to {leads}; remove that link, or put the file itself there (cp -L)"
        )


def _must_be_plain(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in KINDS if is_kind(mode)), "a device")
        raise MmardError(
            f"{path} is no plain file but {kind}; expected a file: remove it, or put the file in its place"
        )
