"""Extra images beside the training set, such as generated ones: a fixed share of every batch.

As in Gowal et al., 2021 (arXiv 2110.09468) and Wang et al., 2023 (arXiv 2302.04638): an epoch has as many images as the
training set alone, so a share of 0.7 leaves each image of the training set 0.3 visits an epoch.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmard.data.columns import numbered
from mmard.data.given import LABEL_KEYS, NAME_KEYS, PIXEL_KEYS, key_of
from mmard.data.images import Batch, ImageSet, levels
from mmard.data.labels import as_array, must_be_classes, renumbered
from mmard.data.npz import NpzFile
from mmard.data.pictures import channels_first
from mmard.utils.errors import MmardError

Rows = tuple[Tensor, Tensor]
"""The rows of a batch in the training set, and those in the extra images."""
UNKNOWN = -1
"""The label of an extra image that the teacher names."""


@dataclass(frozen=True, eq=False)
class Extra:
    """Extra training images, which stay on the CPU: uint8 in memory, or mapped from an .npz file that is not compressed.

    Attributes:
        pixels: (M, C, H, W) uint8.
        labels: (M,) int64 in [0, K); None: the teacher's class of the natural image, computed anew in each batch.
        ratio: their share of each batch, in (0, 1).
        name: of their file, for messages.
    """

    pixels: NDArray[np.uint8]
    labels: Tensor | None
    ratio: float
    name: str

    @staticmethod
    def read(path: str, ratio: float, by: str | None, source: Sequence[str], images: ImageSet) -> "Extra":
        """Read extra images from an .npz file with the keys image and label, or the like.

        Args:
            ratio: their share of each batch.
            by: who labels them: ``"file"``, ``"teacher"``, or None: the file where it has labels, else the teacher.
            source: the classes in the data's own order, which numbers in the file mean.
            images: the training set, whose shape and classes they must have.

        Raises:
            MmardError: for what is no such file, other shapes or classes, and labels that are not there.
        """
        file, image, label = keys_in(path, by)
        pixels = channels_first(file[image])
        if pixels.ndim != 4 or pixels.shape[1:] != tuple(images.shape):
            height, width = images.shape[1:]
            raise MmardError(
                f"{path} has images of shape {pixels.shape}, expected (M, {images.channels}, {height}, {width}) as the training "
                "images are; resize them, or give data.size and data.channels"
            )
        if pixels.dtype != np.uint8 or len(pixels) == 0:
            pixels = levels(pixels, len(pixels)).numpy()
        labels = None
        if label is not None and by != "teacher":
            if (count := len(np.atleast_1d(file[label]))) != len(pixels):
                raise MmardError(f"{path} has {len(pixels):,} images and {count:,} labels; expected as many")
            labels = _labels(file, label, tuple(source), images.classes)
        return Extra(pixels, labels, ratio, path)

    def __len__(self) -> int:
        return len(self.pixels)

    def in_batch(self, batch_size: int) -> int:
        """Return how many of a batch's images are extra ones.

        Raises:
            MmardError: where that is none or all of them, or more than there are.
        """
        count = round(self.ratio * batch_size)
        if not 0 < count < batch_size:
            raise MmardError(
                f"data.extra_ratio={self.ratio:g} of a batch of {batch_size} is {count} images; expected some of both kinds, such "
                "as data.extra_ratio=0.7"
            )
        if count > len(self):
            raise MmardError(
                f"{self.name} has {len(self):,} images, and a batch takes {count}; give more, or a smaller batch"
            )
        return count

    def identity(self) -> dict[str, Any]:
        """Describe the images for a checkpoint: how many, their share, their labels, and a sample of their pixels."""
        some = np.ascontiguousarray(self.pixels[:: max(1, len(self) // 1000)])
        found = hashlib.sha256(some.tobytes())
        found.update(b"" if self.labels is None else self.labels.numpy().tobytes())
        by = "teacher" if self.labels is None else "file"
        return {
            "extra": len(self),
            "extra_ratio": self.ratio,
            "extra_labels": by,
            "extra_images": found.hexdigest()[:16],
        }

    def mixed_into(self, originals: ImageSet, rows: Iterable[Rows]) -> Generator[Batch, None, None]:
        """Yield a batch for each of ``rows``: images of the training set and extra ones, evenly spread.

        Extra images have indices from the training set's largest on, and the label `UNKNOWN` where the teacher names them.
        """
        waiting, beyond = deque[Tensor](), int(originals.index.max()) + 1

        def own() -> Iterator[Tensor]:
            for one, more in rows:
                waiting.append(more)
                yield one

        with closing(originals.batches(own())) as coming:
            for x, y, index in coming:
                yield self._joined(x, y, index, waiting.popleft(), beyond)

    def _joined(self, x: Tensor, y: Tensor, index: Tensor, rows: Tensor, beyond: int) -> Batch:
        total = len(x) + len(rows)
        extra = spread(len(rows), total)
        order = torch.cat([(~extra).nonzero(), extra.nonzero()]).squeeze(1).argsort().to(x.device)
        pixels = torch.from_numpy(np.ascontiguousarray(self.pixels[rows.numpy()])).to(x.device)
        labels = torch.full_like(rows, UNKNOWN) if self.labels is None else self.labels[rows]
        joined = torch.cat([x, pixels.float().div_(255)])[order].to(memory_format=torch.channels_last)
        return (
            joined,
            torch.cat([y, labels.to(y.device)])[order],
            torch.cat([index, (beyond + rows).to(index.device)])[order],
        )


def keys_in(path: str, by: str | None) -> tuple[NpzFile, str, str | None]:
    """Open a file of extra images and find the keys of images and labels; no array is read.

    Raises:
        MmardError: where it is no such file.
    """
    file = NpzFile(Path(path).expanduser())
    image, label = key_of(list(file), PIXEL_KEYS), key_of(list(file), LABEL_KEYS)
    if image is None or (label is None and by == "file"):
        raise MmardError(
            f"{path} has the keys {', '.join(file) or 'none'}; expected image and label, or data.extra_labels=teacher"
        )
    return file, image, label


def named_by_teacher(x: Tensor, y: Tensor, networks: Mapping[str, Callable[[Tensor], Tensor]]) -> Tensor:
    """Give the images of x (B, C, H, W) whose label is `UNKNOWN` the class that the teacher sees in them, as they are."""
    with torch.no_grad():
        return torch.where(y == UNKNOWN, networks["teacher"](x).argmax(1), y)


def spread(count: int, total: int, begin: int = 0, end: int | None = None) -> Tensor:
    """Mark which of ``total`` places, from ``begin`` to before ``end``, are among ``count`` evenly spread ones.

    >>> spread(2, 5).tolist()
    [False, False, True, False, True]
    """
    places = torch.arange(begin, total if end is None else end)
    return (places + 1) * count // total > places * count // total


def _labels(file: NpzFile, label: str, source: tuple[str, ...], order: tuple[str, ...]) -> Tensor:
    """Read labels in the training set's numbering: by name where they have names, else as numbers of the data's own order."""
    named = next((key for key in file if key in NAME_KEYS), None)
    given = tuple(map(str, as_array(file[named], named).tolist())) if named else ()
    y = file[label]
    what = f"labels of {file.path}"
    numbers, names = numbered(np.char.decode(y, "utf-8", "replace") if y.dtype.kind == "S" else y, what, given)
    names = names or source
    if unknown := [name for name in names if name not in order]:
        raise MmardError(f"{file.path} has the class {unknown[0]!r}, the training set has not: {', '.join(order[:8])}")
    must_be_classes(numbers, names, what)
    return renumbered(numbers, names, order)
