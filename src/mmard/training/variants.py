"""A few variants of each training image, drawn once, and the teachers' logits there, computed once.

A frozen teacher gives the same image the same logits in every epoch. Where each image comes in V crops and flips, drawn once,
V passes of a large teacher over the training set replace one for each epoch (Shen & Xing, ECCV 2022, arXiv 2112.01528, with
soft labels on disk and without an attack). What a method asks of the teacher elsewhere than at x is computed as ever.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor

from mmard.core.logits import predict_logits
from mmard.core.views import Known, Predict
from mmard.data.augment import Augmentation, sample_crop
from mmard.data.images import ImageSet
from mmard.training.engine import Engine
from mmard.utils.errors import MmardError
from mmard.utils.numbers import seed_of

MOVES = ("none", "crop", "flip", "crop+flip")
"""Kinds of augmentation that only move an image, each by itself: those that can be drawn once."""


def must_only_move(kind: str, count: int, **others: object) -> None:
    """Raise MmardError where so many variants cannot be drawn once, and where other settings of data are given beside them."""
    if given := [name for name, value in others.items() if value]:
        raise MmardError(
            f"data.variants are drawn once, of the training images as they are; leave them or data.{given[0]} out"
        )
    if kind not in MOVES:
        raise MmardError(
            f"data.variants only move an image, and data.augment={kind} does more; choose one of {', '.join(MOVES)}, or leave "
            "out data.variants"
        )
    if kind == "none" and count > 1:
        raise MmardError(f"data.variants={count} of data.augment=none are all the image itself; give data.variants=1")


@dataclass(frozen=True, eq=False)
class Variants:
    """V variants of each of N images: epoch e takes variant e mod V of each.

    Attributes:
        frames: V, each of all images.
        logits: (V, N, K) of each constant network, by its name; all on the device.
        place: (largest index + 1,) int64, an image's row by its index.
    """

    frames: Sequence[Augmentation]
    logits: Mapping[str, Tensor]
    place: Tensor

    def __call__(self, x: Tensor, index: Tensor, epoch: int) -> tuple[Tensor, Augmentation, Known]:
        """Move images x (B, C, H, W) of this index (B,) as in this epoch; returns what did it and the logits (B, K), too."""
        variant, rows = epoch % len(self.frames), self.place[index]
        frame = self.frames[variant].of_rows(rows)
        return frame(x), frame, {name: logits[variant, rows] for name, logits in self.logits.items()}


def draw_variants(
    images: ImageSet, kind: str, count: int, seed: int, teachers: Mapping[str, Predict], engine: Engine, at_once: int,
    on_progress: Callable[[int, int], object],
) -> Variants:  # fmt: skip
    """Draw ``count`` variants of each image and compute the logits of constant networks there.

    Args:
        kind: one of `MOVES`.
        teachers: constant networks by name; each process asks them about its share of the images.
        at_once: images that go through a network at once.
        on_progress: is told how many batches are done, and of how many.

    Raises:
        MmardError: for a network that gives no logits.
    """
    device, number = engine.device, len(images)
    frames = [frame.to(device) for frame in _frames(images, kind, count, seed)]
    place = torch.zeros(int(images.index.max()) + 1, dtype=torch.int64, device=device)
    place[images.index.to(device)] = torch.arange(number, device=device)
    parts = torch.split(_share(number, engine).to(images.index.device), at_once) if teachers else ()
    known: dict[str, Tensor] = {}
    with closing(images.batches(iter(parts))) as batches, torch.no_grad():
        for done, (x, _, index) in enumerate(batches, 1):
            rows = place[index]
            all_rows = engine.gather(rows)
            for variant, frame in enumerate(frames):
                moved = frame.of_rows(rows)(x)
                for name, teacher in teachers.items():
                    logits = engine.gather(predict_logits(teacher, moved, f"the {name}"))
                    if name not in known:
                        known[name] = logits.new_empty(count, number, logits.shape[1])
                    known[name][variant, all_rows] = logits
            on_progress(done, len(parts))
    return Variants(frames, known, place)


def _frames(images: ImageSet, kind: str, count: int, seed: int) -> list[Augmentation]:
    """Draw so many augmentations of all images, on the CPU, so that they are the same on every device."""
    like = torch.zeros(()).expand(len(images), *images.shape)  # only its shape matters
    frames = []
    with torch.random.fork_rng(devices=[]):
        for variant in range(count):
            torch.default_generator.manual_seed(seed_of(seed, "variant", variant))
            frames.append(sample_crop(like, kind))
    return frames


def _share(number: int, engine: Engine) -> Tensor:
    """Choose this process's rows: as many as any other's, since they wait for one another; so some are of two processes."""
    each = -(-number // engine.world)
    return torch.arange(engine.rank, engine.rank + each * engine.world, engine.world) % number
