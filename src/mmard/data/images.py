"""Image sets in memory: uint8 on the device, stable indices, splits that depend only on a seed."""

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from mmard.data.labels import as_array, class_numbers, must_be_classes
from mmard.utils.errors import MmardError

Batch = tuple[Tensor, Tensor, Tensor]
"""x (B, C, H, W) float32 in [0, 1] in channels-last memory, y (B,), index (B,)."""

ROUNDING = 1e-4  # of a pixel's range: what resizing and augmentation may do to it


class ImageSet(Protocol):
    """A labelled image set, in memory (`Images`) or on disk (`mmard.data.streaming.Streamed`)."""

    @property
    def labels(self) -> Tensor:
        """Return the labels (N,) int64 in [0, K)."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the K names of the classes."""

    @property
    def index(self) -> Tensor:
        """Return each image's stable number, (N,) int64; rows are wanted on its device."""

    @property
    def shape(self) -> torch.Size:
        """Return the shape (C, H, W) of each image."""

    @property
    def channels(self) -> int:
        """Return the number of channels, 1 or 3."""

    def __len__(self) -> int: ...

    def take(self, rows: Tensor) -> Self:
        """Select the images in these rows; their indices stay."""

    def to(self, device: torch.device) -> Self:
        """Move the batches to a device."""

    def in_memory(self) -> "Images":
        """Load all images into memory as uint8."""

    def batches(self, rows: Iterable[Tensor]) -> Generator[Batch, None, None]:
        """Yield a batch for each of ``rows``, in their order; rows may be drawn some batches ahead."""

    def mean_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Compute mean and standard deviation of each channel, of pixels in [0, 1]; exact."""


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images in memory.

    Attributes:
        pixels: (N, C, H, W) uint8.
        labels: (N,) int64 in [0, K).
        classes: the K names.
        index: (N,) int64, each image's number in the set it was first loaded in; it survives every split.
    """

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    index: Tensor

    def __post_init__(self) -> None:
        if self.pixels.dtype != torch.uint8 or self.pixels.dim() != 4 or self.labels.dtype != torch.int64:
            kinds = f"pixels {self.pixels.dtype} {tuple(self.pixels.shape)}, labels {self.labels.dtype}"
            raise MmardError(f"got {kinds}; expected uint8 (N, C, H, W) and int64: Images.of converts and checks")

    @staticmethod
    def of(pixels: np.ndarray | Tensor, labels: np.ndarray | Tensor, classes: Sequence[str]) -> "Images":
        """Check and convert images.

        Args:
            pixels: (N, C, H, W), uint8 or floats in [0, 1].
            labels: (N,) or (N, 1), whole numbers from 0, also as floats or booleans.
            classes: the K names.

        Raises:
            MmardError: for no images, pixels of another kind or range, and labels that are no classes.
        """
        y = class_numbers(labels)
        x = levels(as_array(pixels, "pixels"), len(y))
        names = tuple(classes)
        if isinstance(classes, str) or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
            raise MmardError(f"classes are {classes!r}, expected their names, each once, such as ('cat', 'dog')")
        must_be_classes(y, names)
        return Images(x, y, names, torch.arange(len(x)))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> torch.Size:
        """Return the shape (C, H, W) of each image."""
        return self.pixels.shape[1:]

    @property
    def channels(self) -> int:
        """Return the number of channels, 1 or 3."""
        return self.shape[0]

    def take(self, rows: Tensor) -> "Images":
        """Select the images in these rows; their indices stay."""
        return replace(self, pixels=self.pixels[rows], labels=self.labels[rows], index=self.index[rows])

    def to(self, device: torch.device) -> "Images":
        """Move pixels, labels and indices to a device."""
        moved = {k: getattr(self, k).to(device) for k in ("pixels", "labels", "index")}
        return replace(self, **moved)

    def in_memory(self) -> "Images":
        """Return this set itself."""
        return self

    def batch(self, rows: Tensor | slice) -> Batch:
        """Return the images in these rows, with labels and indices."""
        x = self.pixels[rows].to(memory_format=torch.channels_last)
        return x.float().div_(255), self.labels[rows], self.index[rows]

    def batches(self, rows: Iterable[Tensor]) -> Generator[Batch, None, None]:
        """Yield a batch for each of ``rows``, in their order."""
        yield from map(self.batch, rows)

    def mean_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Compute mean and standard deviation of each channel, of pixels in [0, 1]; exact."""
        return mean_std(torch.split(self.pixels, 1000), self.channels)


def _divided(kind: np.dtype) -> str:
    """Say what makes pixels of a kind that is not read ones that are."""
    return f"divide by {np.iinfo(kind).max}, or by the largest" if kind.kind in "iu" else "convert them"


def levels(pixels: np.ndarray, count: int) -> Tensor:
    """Convert pixels (N, C, H, W), uint8 or floats in [0, 1], to uint8; ``count`` labels belong to them.

    Raises:
        MmardError: for pixels of another kind, shape or range, with what to do.
    """
    if pixels.ndim != 4 or len(pixels) != count:
        raise MmardError(f"images of shape {pixels.shape} with {count} labels; expected (N, C, H, W) and N labels")
    if len(pixels) == 0:
        raise MmardError("the data set is empty: 0 images")
    if pixels.size == 0:
        raise MmardError(f"images of shape {pixels.shape} have no pixels; expected (N, C, H, W), and none of these 0")
    if pixels.shape[1] not in (1, 3) and pixels.shape[3] in (1, 3):
        raise MmardError(
            f"images of shape {pixels.shape} have their channels last; expected (N, C, H, W): .transpose(0, 3, 1, 2)"
        )
    pixels = np.ascontiguousarray(pixels) if pixels.flags.writeable else np.array(pixels, order="C")  # no mapped file
    if pixels.dtype == np.uint8:
        if pixels.max() <= 1:
            raise MmardError(
                "pixels are uint8 and at most 1, expected 0 to 255; where 1 is white, multiply them by 255"
            )
        return torch.from_numpy(pixels)
    if not pixels.dtype.isnative:
        pixels = pixels.astype(pixels.dtype.newbyteorder("="))
    if pixels.dtype.kind != "f":
        bytewise = pixels.dtype.kind in "iu" and 1 < pixels.max() <= 255 and pixels.min() >= 0
        whole = "they fit: .astype(numpy.uint8)" if bytewise else _divided(pixels.dtype)
        raise MmardError(f"pixels are {pixels.dtype}, expected uint8, or floats in [0, 1]; {whole}")
    low, high = pixels.min(), pixels.max()
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # also for NaN
        raise MmardError(f"pixels lie in [{low:g}, {high:g}], expected [0, 1]; divide by 255, do not normalise")
    if high <= 1 / 255:
        raise MmardError(f"pixels are at most {high:g}, which is black, expected up to 1; divide by 255 once alone")
    return (torch.from_numpy(pixels) * 255).round().clamp(0, 255).to(torch.uint8)


def mean_std(parts: Iterable[Tensor], channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Compute mean and standard deviation of each channel of uint8 images (B, C, H, W) as pixels in [0, 1].

    Exact, from counts of the 256 levels.
    """
    counts = torch.zeros(channels, 256, dtype=torch.float64)
    for part in parts:
        for c in range(channels):
            counts[c] += torch.bincount(part[:, c].flatten().int(), minlength=256).cpu()
    levels, n = torch.arange(256, dtype=torch.float64) / 255, counts.sum(1)
    mean = counts @ levels / n
    variance = (counts * (levels - mean[:, None]).square()).sum(1) / (n - 1).clamp_min(1)
    return tuple(mean.tolist()), tuple(variance.sqrt().clamp_min(1e-3).tolist())


@dataclass(frozen=True, eq=False)
class DataSet:
    """The splits of a data set: training on ``train``, model selection on ``held_out``, evaluation on ``test``.

    Attributes:
        skipped: the fault of each picture that was left out because it cannot be decoded.
        source: the names of the classes in the source's own order.
        shared: how many test images are training images too, of all that the source has.
    """

    name: str
    train: ImageSet
    held_out: Images
    test: Images
    skipped: tuple[str, ...] = ()
    source: tuple[str, ...] = ()
    shared: int = 0


def stratified(labels: Tensor, count: int, seed: int, *, lot: bool = True) -> tuple[Tensor, Tensor]:
    """Draw rows of ``count`` samples with every class in proportion; returns them and the rest, both sorted.

    Args:
        lot: classes of one size of which only some can have an image are drawn; False: the last have it, whatever the seed.
    """
    draw, y, chosen = np.random.default_rng(seed), labels.numpy(), []
    quota = np.bincount(y) * count / len(y)
    bare, last = quota < 1 if lot else quota < 0, -np.arange(len(quota))
    place = np.where(
        bare, np.random.default_rng((seed, 1)).permutation(len(quota)), last
    )  # other splits stay what they were
    order = np.lexsort((place, ~bare, -(quota % 1)))  # largest remainders first
    extra = order[: count - int(np.floor(quota).sum())]
    for k in range(len(quota)):
        rows = draw.permutation(np.flatnonzero(y == k))
        chosen.append(rows[: int(quota[k]) + (k in extra)])
    inside = np.zeros(len(y), bool)
    inside[np.concatenate(chosen)] = True
    return torch.from_numpy(np.flatnonzero(inside)), torch.from_numpy(np.flatnonzero(~inside))


Set = TypeVar("Set", bound=ImageSet)


def some(images: Set, limit: int | None, seed: int) -> Set:
    """Draw about ``limit`` of the images, every class in proportion; all of them without a limit."""
    if limit is None or limit >= len(images):
        return images
    return images.take(stratified(images.labels.cpu(), limit, seed)[0].to(images.index.device))


def split(name: str, train: ImageSet, test: Images, *, held_out: float, seed: int) -> DataSet:
    """Split a held-out set from the training set, by class and by seed; the held-out images are in memory."""
    if not 0 < held_out < 1:
        raise MmardError(f"held_out {held_out:g} is no share of the training set; expected for instance 0.1")
    outside, inside = stratified(train.labels, max(1, round(held_out * len(train))), seed)
    learnt_too = torch.isin(train.labels[outside], train.labels[inside])
    # no class is held out as a whole
    inside, outside = torch.cat([inside, outside[~learnt_too]]).sort().values, outside[learnt_too]
    for part, count in (("training", len(inside)), ("held-out", len(outside)), ("test", len(test))):
        if count == 0:
            raise MmardError(f"the {part} split is empty; give more images, or another held_out than {held_out:g}")
    learnt = train.take(inside)
    if learnt.labels.min() == learnt.labels.max():
        raise MmardError("the training images are all of one class; a classifier needs at least two")
    return DataSet(name, learnt, train.take(outside).in_memory(), test)
