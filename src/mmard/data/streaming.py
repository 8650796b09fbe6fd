"""Image sets that do not fit in memory: each batch is decoded shortly before it is needed."""

import os
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor

from mmard.data.encoded import PART, EncodedImages
from mmard.data.images import Batch, Images, mean_std

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
THREADS = min(16, CORES)  # decoding releases Python's lock, what is around it does not: more would queue for it
AHEAD = THREADS + 1  # batches decoded or being decoded, so that a thread which is done has the next one to begin
CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Streamed:
    """Labelled images on disk, of which only the labels are in memory; pixels are bit-equal to those of `in_memory`.

    Attributes:
        pictures: the images, encoded, on disk.
        labels, classes, index: as of `Images`; they stay on the CPU, and ``index`` numbers the pictures.
        device: where batches go.
    """

    pictures: EncodedImages
    labels: Tensor
    classes: tuple[str, ...]
    index: Tensor
    device: torch.device = CPU

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> torch.Size:
        """Return the shape (C, H, W) of each image."""
        height, width, channels = self.pictures.shape
        return torch.Size([channels, height, width])

    @property
    def channels(self) -> int:
        """Return the number of channels, 1 or 3."""
        return self.shape[0]

    def take(self, rows: Tensor) -> "Streamed":
        """Select the images in these rows; their indices stay."""
        return replace(self, labels=self.labels[rows], index=self.index[rows])

    def to(self, device: torch.device) -> "Streamed":
        """Move the batches to a device; the images stay on disk."""
        return replace(self, device=device)

    def in_memory(self) -> Images:
        """Decode all images into memory."""
        pixels = torch.empty(len(self), *self.pictures.shape, dtype=torch.uint8).permute(0, 3, 1, 2)
        for part, (x, _, _) in zip(torch.split(pixels, PART), self._decoded(self._parts()), strict=True):
            part.copy_(x)
        return Images(pixels, self.labels, self.classes, self.index)

    def batches(self, rows: Iterable[Tensor]) -> Generator[Batch, None, None]:
        """Yield a batch for each of ``rows``; the next `AHEAD` are decoded meanwhile, at most `AHEAD` + 2 in memory."""
        for x, y, index in self._decoded(rows):
            x, y, index = (t.to(self.device, non_blocking=True) for t in (x, y, index))
            yield x.to(memory_format=torch.channels_last).float().div_(255), y, index

    def mean_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Compute mean and standard deviation of each channel in one pass, equal to those of `Images`."""
        return mean_std((x for x, _, _ in self._decoded(self._parts())), self.channels)

    def _parts(self) -> Iterable[Tensor]:
        return torch.split(torch.arange(len(self)), PART)

    def _decoded(self, rows: Iterable[Tensor]) -> Generator[Batch, None, None]:
        """Yield uint8 batches on the CPU in the order of ``rows``; an error is raised when its batch is due."""
        pool, coming = ThreadPoolExecutor(THREADS, "decode"), iter(rows)
        try:
            waiting: deque[Future[Batch]] = deque(pool.submit(self._decode, r) for r in islice(coming, AHEAD))
            while waiting:
                batch = waiting.popleft().result()
                waiting.extend(pool.submit(self._decode, r) for r in islice(coming, 1))
                yield batch
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _decode(self, rows: Tensor) -> Batch:
        pixels = torch.from_numpy(self.pictures.decode(self.index[rows].tolist())).permute(0, 3, 1, 2)
        batch = pixels, self.labels[rows], self.index[rows]
        if self.device.type == "cuda":  # only from pinned memory does a copy not wait for the device
            batch = batch[0].pin_memory(), batch[1].pin_memory(), batch[2].pin_memory()
        return batch
