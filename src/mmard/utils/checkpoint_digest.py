"""A digest inside the file that `torch.save` wrote, so that damage is detected.

The file is a ZIP archive and stays one: the seal is the archive's comment. The archive holds a CRC-32 of each of its
records, which `torch.load` does not check; the seal is the SHA-256 of all bytes outside the records, these sums among them. So
every byte is covered, and sealing reads kilobytes where a digest of the whole file would read it all again.
"""

import hashlib
import struct
import zipfile
from pathlib import Path
from typing import IO

from mmard.utils.safe_open import must_be_plain

MARK = b"mmard-sha256:"
LENGTH = len(MARK) + 64
_END = b"PK\x05\x06"  # of an archive, 22 bytes before its comment


def seal(path: Path) -> None:
    """Add the digest to a file that `torch.save` has just written."""
    with path.open("rb+") as f:
        size = f.seek(0, 2)
        f.seek(size - 2)
        f.write(struct.pack("<H", LENGTH))
        f.write(MARK + b"0" * 64)
        digest = _digest(f, size)
        f.seek(size + len(MARK))
        f.write(digest)


def is_whole(path: Path) -> bool:
    """Return whether a file has its digest; True for a file without one, which may be another's or an old one.

    Raises:
        OSError: when it cannot be read.
    """
    must_be_plain(path)
    with path.open("rb") as f:
        size = f.seek(0, 2) - LENGTH
        f.seek(max(0, size))
        comment = f.read()
        f.seek(max(0, size + LENGTH - 22))
        if not comment.startswith(MARK):
            # An archive without a comment ends with its end record. Anything else that was an archive has been damaged.
            ends_bare = f.read(4) == _END
            f.seek(0)
            return ends_bare or f.read(2) != b"PK"
        try:
            if comment[len(MARK) :] != _digest(f, size):
                return False
            with zipfile.ZipFile(f) as archive:
                return archive.testzip() is None
        except (zipfile.BadZipFile, struct.error, ValueError, EOFError, NotImplementedError, RuntimeError):
            return False


def _digest(f: IO[bytes], size: int) -> bytes:
    """Compute the hex digest of all that stands outside the records, in the first ``size`` bytes."""
    with zipfile.ZipFile(f) as archive:
        records = sorted(archive.infolist(), key=lambda record: record.header_offset)
    digest, done = hashlib.sha256(), 0
    for record in records:
        f.seek(record.header_offset + 26)
        begin = record.header_offset + 30 + sum(struct.unpack("<HH", f.read(4)))
        f.seek(done)
        digest.update(f.read(begin - done))
        done = begin + record.compress_size
    f.seek(done)
    digest.update(f.read(size - done))
    return digest.hexdigest().encode()
