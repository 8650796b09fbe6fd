"""A few fixed variants of each training image, and the teachers' logits there, computed once.

A frozen teacher gives the same image the same logits in every epoch. Where each image comes in V crops and flips, drawn once,
V passes of a large teacher over the training set replace one for each epoch (Shen & Xing, 2022, arXiv 2112.01528, on clean
images). What a method asks of the teacher elsewhere than at x is computed as ever.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mmard.core.logits import predict_logits
from mmard.core.views import Known, Predict
from mmard.data.augment import Augmentation, LateAugmentation, apply_extra, kind_at, sample_crop
from mmard.data.images import ImageSet
from mmard.training.engine import Engine
from mmard.utils.numbers import seed_of

MOVES = ("none", "crop", "flip", "crop+flip")
"""Kinds of augmentation that only move an image, each by itself: those that can be drawn once."""
Heard = Callable[[int, int], None]
"""Hears that so many of so many looks are done."""


@dataclass(frozen=True)
class Fresh:
    """Augmentation drawn anew in each step.

    Attributes:
        kind, late: one of `mmard.data.augment.KINDS`, and what replaces it later.
        epochs: length of the run.
    """

    kind: str
    late: LateAugmentation | None = None
    epochs: int = 1

    def __call__(self, x: Tensor, index: Tensor, progress: float) -> tuple[Tensor, Augmentation, Known]:
        """Draw from torch's random numbers; no logits are known."""
        kind = kind_at(progress, self.epochs, self.kind, self.late)
        frame = sample_crop(x, kind)
        return apply_extra(frame(x), kind), frame, {}


@dataclass(frozen=True, eq=False)
class Variants:
    """Augmentation drawn once: epoch e takes variant e mod V of each image.

    Attributes:
        frames: of all images, one for each variant.
        logits: (V, N, K) by network.
        place: (largest index + 1,) int64, an image's row by its index.
        epochs: length of the run.
    """

    frames: Sequence[Augmentation]
    logits: Mapping[str, Tensor]
    place: Tensor
    epochs: int

    def __call__(self, x: Tensor, index: Tensor, progress: float) -> tuple[Tensor, Augmentation, Known]:
        """Take this epoch's variant of the images."""
        variant = int(progress * self.epochs + 1e-6) % len(self.frames)
        rows = self.place[index]
        frame = self.frames[variant].of_rows(rows)
        return frame(x), frame, {name: logits[variant, rows] for name, logits in self.logits.items()}

    @staticmethod
    def drawn(images: ImageSet, kind: str, count: int, seed: int, epochs: int) -> "Variants":
        """Draw ``count`` variants of each image by a kind of `MOVES`; no logits are known yet."""
        place = torch.zeros(int(images.index.max()) + 1, dtype=torch.int64)
        place[images.index.cpu()] = torch.arange(len(images))
        one = torch.zeros(()).expand(len(images), *images.shape)  # only its shape matters
        frames = []
        with torch.random.fork_rng(devices=[]):
            for variant in range(count):
                torch.manual_seed(seed_of(seed, "variant", variant))
                frames.append(sample_crop(one, kind))
        return Variants(frames, {}, place, epochs)

    def seen_by(
        self, teachers: Mapping[str, Predict], images: ImageSet, at_once: int, engine: Engine, heard: Heard
    ) -> "Variants":
        """Compute the logits of constant networks at each variant, so many images at once; each process does its share.

        Args:
            heard: is told of so many looks of so many.
        """
        moved = replace(
            self, frames=[frame.to(engine.device) for frame in self.frames], place=self.place.to(engine.device)
        )
        rows = torch.arange(engine.rank, len(images), engine.world, device=images.index.device)
        rows = torch.split(rows, at_once)
        total, shape = len(rows) * len(self.frames), (len(self.frames), len(images))
        logits: dict[str, Tensor] = {}
        for variant, frame in enumerate(moved.frames) if teachers else ():
            for part, (x, _, index) in enumerate(images.batches(iter(rows))):
                own = moved.place[index]
                for name, teacher in teachers.items():
                    with torch.no_grad():
                        found = predict_logits(teacher, frame.of_rows(own)(x), f"the {name}")
                    logits.setdefault(name, found.new_zeros(*shape, found.shape[1]))[variant, own] = found
                heard(variant * len(rows) + part + 1, total)
        return replace(moved, logits={name: engine.all_reduce_sum(value) for name, value in logits.items()})


def augmenter(
    images: ImageSet, kind: str, late: LateAugmentation | None, variants: int | None, seed: int, epochs: int
) -> Fresh | Variants:
    """Make what augments the batches of a run."""
    return Fresh(kind, late, epochs) if variants is None else Variants.drawn(images, kind, variants, seed, epochs)
