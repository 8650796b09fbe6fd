"""Image sets in memory: uint8 on the device, stable indices, splits that depend only on a seed."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mmard.core.errors import MmardError


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
        if not (y.min() >= 0 and y.max() < len(classes)):
            raise MmardError(
                f"labels lie in [{y.min()}, {y.max()}], expected 0 to {len(classes) - 1}; is this split without labels?"
            )
        return Images(x, y, classes, torch.arange(len(x)))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def channels(self) -> int:
        """1 or 3."""
        return self.pixels.shape[1]

    def take(self, rows: Tensor) -> "Images":
        """The images in these rows; their indices stay."""
        return replace(self, pixels=self.pixels[rows], labels=self.labels[rows], index=self.index[rows])

    def to(self, device: torch.device) -> "Images":
        """All of it on a device."""
        moved = {k: getattr(self, k).to(device) for k in ("pixels", "labels", "index")}
        return replace(self, **moved)

    def batch(self, rows: Tensor | slice) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, C, H, W) float32 in [0, 1] in channels-last memory, y (B,), index (B,)."""
        x = self.pixels[rows].to(memory_format=torch.channels_last)
        return x.float().div_(255), self.labels[rows], self.index[rows]

    def mean_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel, of pixels in [0, 1]; exact, from counts of the 256 levels."""
        counts = torch.zeros(self.channels, 256, dtype=torch.float64)
        for part in torch.split(self.pixels, 1000):
            for c in range(self.channels):
                counts[c] += torch.bincount(part[:, c].flatten().int(), minlength=256).cpu()
        levels, n = torch.arange(256, dtype=torch.float64) / 255, counts.sum(1)
        mean = counts @ levels / n
        variance = (counts * (levels - mean[:, None]).square()).sum(1) / (n - 1).clamp_min(1)
        return tuple(mean.tolist()), tuple(variance.sqrt().clamp_min(1e-3).tolist())


@dataclass(frozen=True, eq=False)
class DataSet:
    """What a run sees: it trains on ``train``, chooses on ``held_out``, and is judged on ``test``."""

    name: str
    train: Images
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


def some(images: Images, limit: int | None, seed: int) -> Images:
    """About ``limit`` of the images, every class in proportion; all of them without a limit."""
    return images if limit is None or limit >= len(images) else images.take(stratified(images.labels, limit, seed)[0])


def split(name: str, train: Images, test: Images, *, held_out: float, seed: int) -> DataSet:
    """Cut the held-out split from the training set, by class and by seed."""
    if not 0 < held_out < 1:
        raise MmardError(f"held_out {held_out:g} is no share of the training set; expected for instance 0.1")
    outside, inside = stratified(train.labels, max(1, round(held_out * len(train))), seed)
    parts = DataSet(name, train.take(inside), train.take(outside), test)
    for part, images in (("training", parts.train), ("held-out", parts.held_out), ("test", parts.test)):
        if len(images) == 0:
            raise MmardError(f"the {part} split is empty; give more images, or another held_out than {held_out:g}")
    if parts.train.labels.min() == parts.train.labels.max():
        raise MmardError("the training images are all of one class; a classifier needs at least two")
    return parts
