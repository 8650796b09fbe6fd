"""Test images that are training images too: figures on them say nothing of images that a network has not seen."""

import hashlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmard.data.images import ImageSet

Mark = str | bytes
"""What tells one picture from others: its path, or a digest of its bytes."""
LARGEST = 1 << 30  # bytes of pictures that are looked at
MOST = 300_000  # pictures of a table
MOST_FILES = 50_000  # that are read


def warn_of_shared(
    train: Iterator[Mark], test: Iterator[Mark], what: str = "training images", *, read: bool = True
) -> int:
    """Warn where test pictures, by their paths or to the bit, are training pictures; return how many. ``what`` names these.

    Args:
        read: read files that are known by their paths, to find copies.
    """
    marks = list(test)
    others = list(train) if marks else []
    content = _contents(others, marks) if read else {}
    seen = {content.get(mark, mark) for mark in others}
    count = sum(content.get(mark, mark) in seen for mark in marks)
    if count:
        warnings.warn(
            f"{count:,} of {len(marks):,} test images are {what} too, and their accuracies flatter; leave them out of one of "
            "the two",
            stacklevel=2,
        )
    return count


def warn_of_shared_extra(extra: NDArray[np.uint8], test: ImageSet) -> None:
    """Warn where test images are extra training images, to the bit; not where one of the two is too much to look at."""
    if max(extra.size, len(test) * test.shape.numel()) <= LARGEST:
        warn_of_shared(marks_of_arrays(extra), marks_of_arrays(test.in_memory().pixels), "images of data.extra")


def marks_of_arrays(pixels: Tensor | NDArray[np.uint8]) -> Iterator[Mark]:
    """Yield a digest of each image (N, C, H, W) in memory; of none where they are too many to look at."""
    images = np.asarray(pixels)
    if images.size <= LARGEST:
        for image in images:
            yield _digest(np.ascontiguousarray(image).tobytes())


def marks_of_table(rows: Any, image: str, index: Tensor) -> Iterator[Mark]:
    """Yield the path, or a digest of the file, of each picture in these rows of a table; of none where they are too many."""
    small, plain = rows.data.nbytes <= LARGEST, rows.select_columns([image]).with_format("arrow")
    for part in torch.split(index, 1000) if len(index) <= MOST else ():
        for cell in plain[part.tolist()].column(image).to_pylist():
            content, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
            if isinstance(content, bytes) and small:
                yield _digest(content)
            elif isinstance(path, str) and content is None:
                yield path


def _contents(train: list[Mark], test: list[Mark]) -> dict[Mark, bytes]:
    """Digest the files of both parts whose sizes occur in both, by path; none where these are too much to read."""
    paths = [[mark for mark in part if isinstance(mark, str)] for part in (train, test)]
    sizes = [{path: Path(path).stat().st_size for path in part if Path(path).is_file()} for part in paths]
    common = set(sizes[0].values()).intersection(sizes[1].values())
    alike = {path: size for part in sizes for path, size in part.items() if size in common}
    if sum(alike.values()) > LARGEST or len(alike) > MOST_FILES:
        return {}
    return {path: _digest(Path(path).read_bytes()) for path in alike}


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()
