"""Image sets in memory: uint8 on the device, stable indices, splits that depend only on a seed."""

from collections.abc import Generator, Iterable
from dataclasses import dataclass, replace
from typing import Protocol, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from mmard.core.errors import MmardError

Batch = tuple[Tensor, Tensor, Tensor]
"""x (B, C, H, W) float32 in [0, 1] in channels-last memory, y (B,), index (B,)."""


class ImageSet(Protocol):
    """What training asks of its images, in memory (`Images`) or on disk (`mmard.data.streamed.Streamed`)."""

    @property
    def labels(self) -> Tensor:
        """(N,) int64 in [0, K)."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The K names."""

    @property
    def index(self) -> Tensor:
        """(N,) int64, each image's number; rows are wanted on the device where it is."""

    @property
    def shape(self) -> torch.Size:
        """(C, H, W) of each."""

    @property
    def channels(self) -> int:
        """1 or 3."""

    def __len__(self) -> int: ...

    def take(self, rows: Tensor) -> Self:
        """The images in these rows; their indices stay."""

    def to(self, device: torch.device) -> Self:
        """The set whose batches are on a device."""

    def in_memory(self) -> "Images":
        """All of it as uint8."""

    def batches(self, rows: Iterable[Tensor]) -> Generator[Batch, None, None]:
        """A batch for each of ``rows``, in their order; rows may be asked for some batches ahead."""

    def mean_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel, of pixels in [0, 1]; exact."""


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images.

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

    @staticmethod
    def of(pixels: np.ndarray | Tensor, labels: np.ndarray | Tensor, classes: tuple[str, ...]) -> "Images":
        """Checked images: uint8, or floats in [0, 1].

        Raises:
            MmardError: for no images, pixels outside [0, 1], or labels that are no classes.
        """
        x, y = torch.as_tensor(pixels), torch.as_tensor(labels).long()
        if len(x) == 0:
            raise MmardError("the data set is empty: 0 images")
        if x.dim() != 4 or len(x) != len(y):
            raise MmardError(
                f"images of shape {tuple(x.shape)} with {len(y)} labels; expected (N, C, H, W) and N labels"
            )
        if x.dtype != torch.uint8:
            low, high = x.min().item(), x.max().item()
            if not (low >= 0 and high <= 1):
                raise MmardError(f"pixels lie in [{low:g}, {high:g}], expected [0, 1]; divide by 255, do not normalise")
            x = (x * 255).round().to(torch.uint8)
        check_labels(y, classes)
        return Images(x, y, classes, torch.arange(len(x)))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> torch.Size:
        """(C, H, W) of each."""
        return self.pixels.shape[1:]

    @property
    def channels(self) -> int:
        """1 or 3."""
        return self.shape[0]

    def take(self, rows: Tensor) -> "Images":
        """The images in these rows; their indices stay."""
        return replace(self, pixels=self.pixels[rows], labels=self.labels[rows], index=self.index[rows])

    def to(self, device: torch.device) -> "Images":
        """All of it on a device."""
        moved = {k: getattr(self, k).to(device) for k in ("pixels", "labels", "index")}
        return replace(self, **moved)

    def in_memory(self) -> "Images":
        """Itself."""
        return self

    def batch(self, rows: Tensor | slice) -> Batch:
        """The images in these rows."""
        x = self.pixels[rows].to(memory_format=torch.channels_last)
        return x.float().div_(255), self.labels[rows], self.index[rows]

    def batches(self, rows: Iterable[Tensor]) -> Generator[Batch, None, None]:
        """A batch for each of ``rows``, in their order."""
        yield from map(self.batch, rows)

    def mean_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel, of pixels in [0, 1]; exact."""
        return mean_std(torch.split(self.pixels, 1000), self.channels)


def check_labels(labels: Tensor, classes: tuple[str, ...]) -> None:
    """Raise for labels that are no classes; there is at least one."""
    low, high = labels.min(), labels.max()
    if not (low >= 0 and high < len(classes)):
        raise MmardError(
            f"labels lie in [{low}, {high}], expected 0 to {len(classes) - 1}; is this split without labels?"
        )


def mean_std(parts: Iterable[Tensor], channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of each channel of uint8 images (B, C, H, W) as pixels in [0, 1]; exact, from counts of the 256 levels."""
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
    """What a run sees: it trains on ``train``, chooses on ``held_out``, and is judged on ``test``."""

    name: str
    train: ImageSet
    held_out: Images
    test: Images


def stratified(labels: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows of ``count`` samples with every class in proportion, and the rows left over; both sorted."""
    draw, y, chosen = np.random.default_rng(seed), labels.numpy(), []
    quota = np.bincount(y) * count / len(y)
    extra = np.argsort(quota % 1, kind="stable")[::-1][: count - int(np.floor(quota).sum())]  # largest remainders
    for k in range(len(quota)):
        rows = draw.permutation(np.flatnonzero(y == k))
        chosen.append(rows[: int(quota[k]) + (k in extra)])
    inside = np.zeros(len(y), bool)
    inside[np.concatenate(chosen)] = True
    return torch.from_numpy(np.flatnonzero(inside)), torch.from_numpy(np.flatnonzero(~inside))


Set = TypeVar("Set", bound=ImageSet)


def some(images: Set, limit: int | None, seed: int) -> Set:
    """About ``limit`` of the images, every class in proportion; all of them without a limit."""
    if limit is None or limit >= len(images):
        return images
    return images.take(stratified(images.labels.cpu(), limit, seed)[0].to(images.index.device))


def split(name: str, train: ImageSet, test: Images, *, held_out: float, seed: int) -> DataSet:
    """Cut the held-out split from the training set, by class and by seed; what is held out is in memory."""
    if not 0 < held_out < 1:
        raise MmardError(f"held_out {held_out:g} is no share of the training set; expected for instance 0.1")
    outside, inside = stratified(train.labels, max(1, round(held_out * len(train))), seed)
    for part, count in (("training", len(inside)), ("held-out", len(outside)), ("test", len(test))):
        if count == 0:
            raise MmardError(f"the {part} split is empty; give more images, or another held_out than {held_out:g}")
    learnt = train.take(inside)
    if learnt.labels.min() == learnt.labels.max():
        raise MmardError("the training images are all of one class; a classifier needs at least two")
    return DataSet(name, learnt, train.take(outside).in_memory(), test)
