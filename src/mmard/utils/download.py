"""Downloads of single files: resumed where they were cut, checked against a hash, kept for later."""

import errno
import hashlib
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from mmard.utils.errors import MmardError, first_line
from mmard.utils.files import sha256, write_json
from mmard.utils.safe_open import alone_in, must_be_itself, must_be_plain

OnBytes = Callable[[int, int | None], None]
"""Hears of the bytes that are here and of all, if the server says how many."""
PIECE, TRIES, PAUSE, PATIENCE = (
    1 << 20,
    5,
    0.5,
    60.0,
)  # bytes; without a new byte between; seconds, also without an answer
LOCAL = ("127.0.0.1", "localhost", "::1")
AGENT = "mmard (https://pypi.org/project/mmard)"


def download_folder() -> Path:
    """Return the folder of downloads: ``$XDG_CACHE_HOME/mmard/downloads``, else ``~/.cache/mmard/downloads``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "mmard" / "downloads"


def fetched(url: str, digest: str | None = None, on_bytes: OnBytes = lambda *_: None) -> Path:
    """Find the file behind an address among the downloads, or fetch it.

    What a cut connection left is completed, by this call or a later one. A file that was fetched before is not asked for again;
    its SHA-256 was kept then, and a file that has changed since is refused.

    Args:
        url: ``https://...``; ``http://`` only with a digest, or of this machine.
        digest: the SHA-256 of the file, if known.

    Raises:
        MmardError: for a server that does not give the file, a web page in its place, and other bytes than the digest's; one line.
    """
    place = _Place.of(url)
    with alone_in(place.folder, "wait for it, or stop it"):
        if not place.file.is_file():
            _checked_address(url, digest)
            _complete(place, on_bytes)
            _accept(place, digest)
        must_be_plain(place.file)
        _must_be_the_same(place, digest)
    return place.file


def is_fetched(url: str) -> bool:
    """Tell whether the file behind an address is among the downloads."""
    return _Place.of(url).file.is_file()


@dataclass(frozen=True)
class _Place:
    """Where a download is kept: a folder for each address, with the file, a part of it, and what is known of it."""

    url: str
    folder: Path
    file: Path

    @staticmethod
    def of(url: str) -> "_Place":
        name = re.sub(r"[^\w.+-]", "-", unquote(_parts_of(url).path).rpartition("/")[2]).lstrip(".-") or "file"
        folder = download_folder() / hashlib.sha256(url.encode()).hexdigest()[:16]
        return _Place(url, folder, folder / (name if "." in name else f"{name}.pt"))

    @property
    def part(self) -> Path:
        return self.folder / "part"

    @property
    def known(self) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            found = json.loads((self.folder / "known.json").read_text(encoding="utf-8"))
            return found if isinstance(found, dict) else {}
        return {}

    def keep(self, **facts: Any) -> None:
        write_json(self.folder / "known.json", {"url": self.url, **facts})


def _parts_of(url: str) -> SplitResult:
    """Split an address; raise MmardError for one that cannot be, such as http://[::1."""
    try:
        return urlsplit(url)
    except ValueError as e:
        raise MmardError(f"{url} is no address to fetch from ({first_line(e)}); expected https://...") from e


def _checked_address(url: str, digest: str | None) -> None:
    parts = _parts_of(url)
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise MmardError(f"{url} is no address to fetch from; expected https://...")
    if parts.scheme == "http" and digest is None and parts.hostname not in LOCAL:
        raise MmardError(f"{url} goes over the network unprotected; give its sha256, or an https:// address")


@dataclass
class _Answer:
    """What a server said of the part that is still missing."""

    begins: int
    whole: int | None
    mark: str | None
    response: Any = field(repr=False)


def _complete(place: _Place, on_bytes: OnBytes) -> None:
    """Fetch until the part is whole; raise where nothing new comes any more."""
    idle, have = 0, -1
    while True:
        try:
            if _one_connection(place, on_bytes):
                return
            reason = "the connection was cut"
        except urllib.error.HTTPError as e:
            reason = _refusal(place, e)
        except (OSError, http.client.HTTPException) as e:
            reason = _cut(place, e)
        now = _size(place.part)
        idle = 0 if now > max(have, 0) else idle + 1
        have = now
        if idle >= TRIES:
            kept = f"; {now / 1e6:,.1f} MB are kept, and the same command goes on from there" if now else ""
            raise MmardError(f"{place.url} did not come: {reason}{kept}")
        time.sleep(min(PAUSE * 2**idle, 8.0) if idle else 0)


def _cut(place: _Place, e: Exception) -> str:
    """Return what ended a connection; raise MmardError where it was the disk."""
    if isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ENOTDIR):
        raise MmardError(
            f"cannot keep {place.url} in {place.folder}: {first_line(e)}; make room there, or set XDG_CACHE_HOME"
        ) from e
    inner = getattr(e, "reason", None)
    return first_line(inner if isinstance(inner, Exception) else e)


def _refusal(place: _Place, e: urllib.error.HTTPError) -> str:
    """Return why a server refused, where another try may help; raise MmardError where none will."""
    if e.code == 416:  # the part is longer than the file is by now
        place.part.unlink(missing_ok=True)
        return "the file has changed on the server"
    if e.code >= 500 or e.code in (408, 429):
        return f"the server says {e.code} {e.reason}"
    cure = {401: "it wants a login", 403: "it wants a login, or permission", 404: "is the address still right?"}
    said = " ".join(str(e.reason).split())
    raise MmardError(
        f"{place.url} did not come: the server says {e.code} {said}; {cure.get(e.code, 'see its page in a browser')}"
    ) from e


def _one_connection(place: _Place, on_bytes: OnBytes) -> bool:
    """Fetch what is missing over one connection; tell whether the part is whole afterwards."""
    place.folder.mkdir(parents=True, exist_ok=True)
    answer = _asked(place)
    with answer.response, place.part.open("ab") as f:
        f.truncate(answer.begins)
        place.keep(mark=answer.mark)
        have = answer.begins
        while piece := answer.response.read1(PIECE):
            f.write(piece)
            have += len(piece)
            on_bytes(have, answer.whole)
    return answer.whole is None or have == answer.whole


def _asked(place: _Place) -> _Answer:
    """Ask for the file, or for what follows the part that is here, where the server says it is of the same file."""
    have, mark = _size(place.part), place.known.get("mark")
    headers = {"User-Agent": AGENT, "Accept-Encoding": "identity"}
    if have and mark:
        headers |= {"Range": f"bytes={have}-", "If-Range": mark}
    response = urllib.request.urlopen(urllib.request.Request(place.url, headers=headers), timeout=PATIENCE)
    told = response.headers
    strong = told["ETag"] if told["ETag"] and not told["ETag"].startswith("W/") else told["Last-Modified"]
    begins, length = 0, told["Content-Length"]
    whole = int(length) if length and length.isdigit() else None
    if response.status == 206 and (found := re.match(r"bytes (\d+)-\d+/(\d+)", told["Content-Range"] or "")):
        begins, whole = int(found[1]), int(found[2])
    return _Answer(begins, whole, strong, response)


def _accept(place: _Place, digest: str | None) -> None:
    """Move a whole part to its place with its digest, unless it is another file than the one asked for."""
    try:
        must_be_itself(place.part)
        got = sha256(place.part)
        if digest is not None and got != digest.lower():
            raise MmardError(f"it has sha256 {got[:12]}…, expected {digest[:12]}…")
    except MmardError as e:
        place.part.unlink(missing_ok=True)
        said = str(e).removeprefix(f"{place.part} ").partition(";")[0]
        raise MmardError(
            f"what {place.url} gives {said}; it is not kept: see the address in a browser, and take the direct link of the file"
            if "page" in said or "pointer" in said
            else f"what {place.url} gives is another file: {said}; it is not kept"
        ) from e
    place.keep(sha256=got)
    place.part.replace(place.file)


def _must_be_the_same(place: _Place, digest: str | None) -> None:
    """Raise MmardError where a file has changed since it was fetched, or is not the one that the digest is of."""
    got, kept = sha256(place.file), place.known.get("sha256")
    if kept is not None and got != kept:
        raise MmardError(f"{place.file} has changed since it was fetched; remove it, and it is fetched again")
    if digest is not None and got != digest.lower():
        raise MmardError(
            f"{place.file} has sha256 {got[:12]}…, expected {digest[:12]}…; remove it, and it is fetched again"
        )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
