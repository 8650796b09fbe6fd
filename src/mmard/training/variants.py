"""A few fixed variants of each training image, and the teachers' logits there, computed once.

A frozen teacher gives the same image the same logits in every epoch. Where each image comes in V crops and flips, drawn once,
V passes of a large teacher over the training set replace one for each epoch (Shen & Xing, 2022, arXiv 2112.01528, on clean
images). What a method asks of the teacher elsewhere than at x is computed as ever.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mmard.core.logits import predict_logits
from mmard.core.views import Known, Predict
from mmard.data.augment import Augmentation, LateAugmentation, apply_extra, kind_at, sample_crop
from mmard.data.images import ImageSet
from mmard.training.engine import Engine
from mmard.utils.errors import MmardError
from mmard.utils.numbers import seed_of

MOVES = ("none", "crop", "flip", "crop+flip")
"""Kinds of augmentation that only move an image, each by itself: those that can be drawn once."""
Heard = Callable[[int, int], object]
"""Hears that so many of so many looks are done."""


def must_only_move(kind: str, more: Mapping[str, object]) -> None:
    """Raise MmardError for an augmentation that is not drawn once, and where ``more`` settings of data are given."""
    for key in [key for key, given in more.items() if given]:
        raise MmardError(
            f"data.variants are drawn once, of the training images as they are; leave them or data.{key} out"
        )
    if kind not in MOVES:
        raise MmardError(
            f"data.variants only move an image, and data.augment={kind} does more; choose one of {', '.join(MOVES)}, or leave "
            "out data.variants"
        )


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

    def identity(self) -> dict[str, Any]:
        """Return what tells this augmentation from another."""
        return {"augment": self.kind} | ({"augment_late": self.late.model_dump()} if self.late else {})

    def seen_by(self, *_: object) -> "Fresh":
        """Return itself: what is not drawn yet cannot be seen."""
        return self

    def __call__(self, x: Tensor, index: Tensor, progress: float) -> tuple[Tensor, Augmentation, Known]:
        """Draw from torch's random numbers; no logits are known."""
        kind = kind_at(progress, self.epochs, self.kind, self.late)
        frame = sample_crop(x, kind)
        return apply_extra(frame(x), kind), frame, {}


@dataclass(frozen=True, eq=False)
class Variants:
    """Augmentation drawn once: epoch e takes variant e mod V of each image.

    Attributes:
        kind: one of `MOVES`.
        frames: of all images, one for each variant.
        logits: (V, N, K) by network.
        place: (largest index + 1,) int64, an image's row by its index.
        epochs: length of the run.
    """

    kind: str
    frames: Sequence[Augmentation]
    logits: Mapping[str, Tensor]
    place: Tensor
    epochs: int

    def identity(self) -> dict[str, Any]:
        """Return what tells this augmentation from another."""
        return {"augment": self.kind, "variants": len(self.frames)}

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
        return Variants(kind, frames, {}, place, epochs)

    def seen_by(
        self, teachers: Mapping[str, Predict], images: ImageSet, at_once: int, engine: Engine, heard: Heard
    ) -> "Variants":
        """Compute the logits of constant networks at each variant, so many images at once; each process does its share.

        Args:
            heard: is told of so many batches of so many.
        """
        device, count = engine.device, len(images)
        made = replace(self, frames=[frame.to(device) for frame in self.frames], place=self.place.to(device))
        share = torch.arange(engine.rank, engine.rank + -(-count // engine.world) * engine.world, engine.world) % count
        parts = torch.split(share.to(images.index.device), at_once)  # as many in each process
        logits: dict[str, Tensor] = {}
        for variant, frame in enumerate(made.frames) if teachers else ():
            for part, (x, _, index) in enumerate(images.batches(iter(parts)), 1):
                rows = made.place[index]
                x = frame.of_rows(rows)(x)
                for name, teacher in teachers.items():
                    with torch.no_grad():
                        found = engine.gather(predict_logits(teacher, x, f"the {name}"))
                    kept = logits.setdefault(name, found.new_zeros(len(made.frames), count, found.shape[1]))
                    kept[variant, engine.gather(rows)] = found
                heard(variant * len(parts) + part, len(made.frames) * len(parts))
        return replace(made, logits=logits)


def augmenter(
    images: ImageSet, kind: str, late: LateAugmentation | None, variants: int | None, seed: int, epochs: int
) -> Fresh | Variants:
    """Make what augments the batches of a run."""
    return Fresh(kind, late, epochs) if variants is None else Variants.drawn(images, kind, variants, seed, epochs)
