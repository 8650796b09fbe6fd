"""Training batches in an order that depends on the seed, and the time that training waits for them."""

import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmard.data.extra import Extra, Rows
from mmard.data.images import Batch, ImageSet
from mmard.training.engine import Engine
from mmard.utils.errors import MmardError
from mmard.utils.numbers import seed_of

CPU = torch.device("cpu")


@dataclass(kw_only=True)
class BatchLoader:
    """The training batches of one process.

    The order of an epoch depends on (seed, epoch) alone: a run goes on at any step, and a set that streams knows early
    what comes next. The last, smaller batch of an epoch is left out. With extra images an epoch has as many steps as without.

    Args:
        images: the training set, on the engine's device.
        batch_size: of all processes together.
        extra: images beside the training set, which take their share of each batch.

    Attributes:
        waited: seconds that this process was blocked in getting batches; a reader may reset it to 0.
    """

    images: ImageSet
    batch_size: int
    seed: int
    engine: Engine
    extra: Extra | None = None
    waited: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        size, count = self.batch_size, len(self.images)
        must_fill_a_batch(size, count)
        if size % self.engine.world:
            raise MmardError(f"train.batch_size {size} does not divide by {self.engine.world} processes")
        self.steps_per_epoch = count // size
        self.extra_in_batch = self.extra.in_batch(size) if self.extra else 0

    def batches(self, step: int, total: int) -> Generator[Batch, None, None]:
        """Yield the batches of the steps from ``step`` to before ``total``."""
        with closing(self._mixed(self._rows(range(step, total)))) as coming:
            while True:
                begun = time.perf_counter()
                batch = next(coming, None)
                self.waited += time.perf_counter() - begun
                if batch is None:
                    return
                yield batch

    def natural(self) -> Generator[Tensor, None, None]:
        """Yield the training images in whole, mixed batches: one class at a time would give other statistics."""
        rows = self._rows(range(self.steps_per_epoch), "statistics", whole=True)
        with closing(self._mixed(rows)) as coming:
            yield from (x for x, _, _ in coming)

    def waited_share(self, seconds: float) -> float:
        """Return the share of so many seconds that the slowest process was blocked in getting batches.

        An upper bound of the share in which the device had nothing to do for want of data: a GPU may still be busy with
        earlier work, and to ask it would itself make the host wait. It does not hold what decoding on the same cores takes
        from a network that trains on the CPU.
        """
        return min(1.0, self.engine.greatest(self.waited) / seconds)

    def _mixed(self, rows: Iterator[Rows]) -> Generator[Batch, None, None]:
        """Yield a batch for each of these rows, with extra images where there are any."""
        if self.extra is None:
            return self.images.batches(own for own, _ in rows)
        return self.extra.mixed_into(self.images, rows)

    def _rows(self, steps: range, purpose: str = "order", whole: bool = False) -> Iterator[Rows]:
        """Yield this process's rows of the training set and of the extra images, step by step; ``whole``: of all processes."""
        size, count, extra = self.batch_size, self.extra_in_batch, self.extra
        share = size if whole else size // self.engine.world
        begin = 0 if whole else self.engine.rank * share
        first, last = (place * count // size for place in (begin, begin + share))  # of the extra images, evenly spread
        one = purpose == "statistics"  # of one pass, whose order has no number
        own = _Order(len(self.images), size - count, self.seed, (purpose,), one, self.images.index.device)
        more = _Order(len(extra), count, self.seed, ("extra", purpose)) if extra is not None else None
        for now in steps:
            chosen = own.rows(now)[begin - first : begin + share - last]
            yield chosen, chosen[:0] if more is None else more.rows(now)[first:last]


@dataclass
class _Order:
    """The order of images in passes over them, each of which gives ``size`` to a step as often as it can.

    Args:
        once: there is one pass, and its number is not in the seed.
        device: of the rows.
    """

    count: int
    size: int
    seed: int
    purpose: tuple[str, ...]
    once: bool = False
    device: torch.device = CPU
    turn: int = field(default=-1, init=False)

    def rows(self, step: int) -> Tensor:
        """Return the rows of a step, (size,)."""
        steps = self.count // self.size
        if self.turn != step // steps:
            self.turn = step // steps
            number = () if self.once else (self.turn,)
            draw = torch.Generator().manual_seed(seed_of(self.seed, *self.purpose, *number))
            self.order = torch.randperm(self.count, generator=draw).to(self.device)
        return self.order[step % steps * self.size :][: self.size]


def must_fill_a_batch(size: int, count: int) -> None:
    """Raise MmardError for a batch of more than all the training images."""
    if size > count:
        cure = f"choose a smaller one, such as train.batch_size={max(1, count // 2)}"
        raise MmardError(f"train.batch_size {size} > {count} training images; {cure}")
