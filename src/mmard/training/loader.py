"""Training batches in an order that depends on the seed, and the time that training waits for them."""

import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmard.data.images import Batch, ImageSet
from mmard.training.engine import Engine
from mmard.utils.errors import MmardError
from mmard.utils.numbers import seed_of


@dataclass(kw_only=True)
class BatchLoader:
    """The training batches of one process.

    The order of an epoch depends on (seed, epoch) alone: a run goes on at any step, and a set that streams knows early
    what comes next. The last, smaller batch of an epoch is left out.

    Args:
        images: the training set, on the engine's device.
        batch_size: of all processes together.

    Attributes:
        waited: seconds that this process was blocked in getting batches; a reader may reset it to 0.
    """

    images: ImageSet
    batch_size: int
    seed: int
    engine: Engine
    waited: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        size, count = self.batch_size, len(self.images)
        if size > count:
            raise MmardError(f"train.batch_size {size} > {count} training images; choose a smaller one")
        if size % self.engine.world:
            raise MmardError(f"train.batch_size {size} does not divide by {self.engine.world} processes")
        self.steps_per_epoch = count // size

    def batches(self, step: int, total: int) -> Generator[Batch, None, None]:
        """Yield the batches of the steps from ``step`` to before ``total``."""
        with closing(self.images.batches(self._rows(step, total))) as coming:
            while True:
                begun = time.perf_counter()
                batch = next(coming, None)
                self.waited += time.perf_counter() - begun
                if batch is None:
                    return
                yield batch

    def natural(self) -> Generator[Tensor, None, None]:
        """Yield the training images in whole, mixed batches: one class at a time would give other statistics."""
        order = self._permutation("statistics")
        rows = (order[place * self.batch_size :][: self.batch_size] for place in range(self.steps_per_epoch))
        with closing(self.images.batches(rows)) as coming:
            yield from (x for x, _, _ in coming)

    def waited_share(self, seconds: float) -> float:
        """Return the share of so many seconds that the slowest process was blocked in getting batches.

        An upper bound of the share in which the device had nothing to do for want of data: a GPU may still be busy with
        earlier work, and to ask it would itself make the host wait. It does not hold what decoding on the same cores takes
        from a network that trains on the CPU.
        """
        return min(1.0, self.engine.greatest(self.waited) / seconds)

    def _rows(self, step: int, total: int) -> Iterator[Tensor]:
        """Yield this process's rows of the training set, step by step."""
        share, epoch, order = self.batch_size // self.engine.world, -1, torch.empty(0)
        for now in range(step, total):
            if epoch != now // self.steps_per_epoch:
                epoch = now // self.steps_per_epoch
                order = self._permutation("order", epoch)
            start = now % self.steps_per_epoch * self.batch_size + self.engine.rank * share
            yield order[start : start + share]

    def _permutation(self, *purpose: int | str) -> Tensor:
        draw = torch.Generator().manual_seed(seed_of(self.seed, *purpose))
        return torch.randperm(len(self.images), generator=draw).to(self.images.index.device)
