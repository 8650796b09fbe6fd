"""Augmentation in batch, on whatever device the images are. What was drawn is kept: it moves perturbations too."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mmard.core.errors import MmardError

KINDS = ("none", "crop", "flip", "crop+flip")


@dataclass(frozen=True, eq=False)
class Augmentation:
    """What happens to each image of a batch: padded with zeros, cut at a place of its own, then mirrored or not.

    Attributes:
        top, left: (B, 1, 1) int64, corner of the window in the padded image; None: no crop.
        mirrored: (B, 1, 1, 1) bool; None: no flip.
        padding: pixels on each side.
    """

    padding: int = 0
    top: Tensor | None = None
    left: Tensor | None = None
    mirrored: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) so moved; linear in x."""
        if self.top is not None and self.left is not None:
            x = _window(x, self.padding, self.top, self.left)
        return x if self.mirrored is None else torch.where(self.mirrored, x.flip(3), x)

    def back(self, delta: Tensor) -> Tensor:
        """The adjoint: a perturbation of the moved images in the frame of the original ones, 0 where the window was not."""
        with torch.enable_grad():
            source = torch.zeros_like(delta).requires_grad_()
            (found,) = torch.autograd.grad(self(source), source, delta)
        return found

    def of_rows(self, rows: Tensor | slice) -> "Augmentation":
        """The same for some of the images."""
        parts = (None if t is None else t[rows] for t in (self.top, self.left, self.mirrored))
        return Augmentation(self.padding, *parts)


def random_crop(x: Tensor, padding: int) -> Tensor:
    """Pad with zeros on all sides, then cut a window of the old size at a random place for each image."""
    return _window(x, padding, *_corners(x, padding))


def _corners(x: Tensor, padding: int) -> tuple[Tensor, Tensor]:
    top, left = torch.randint(0, 2 * padding + 1, (2, len(x), 1, 1), device=x.device)
    return top, left


def _window(x: Tensor, padding: int, top: Tensor, left: Tensor) -> Tensor:
    b, _, h, w = x.shape
    padded = F.pad(x, [padding] * 4)
    rows = top + torch.arange(h, device=x.device).view(1, h, 1)
    columns = left + torch.arange(w, device=x.device).view(1, 1, w)
    each = torch.arange(b, device=x.device).view(b, 1, 1)
    return padded.permute(0, 2, 3, 1)[each, rows, columns].permute(0, 3, 1, 2)


def drawn(x: Tensor, kind: str) -> Augmentation:
    """One of `KINDS`, drawn for each image of x (B, C, H, W); the crop pads an eighth of the width (4 pixels at 32)."""
    if kind not in KINDS:
        raise MmardError(f"augment {kind!r} is not known; expected one of {', '.join(KINDS)}")
    padding = max(1, x.shape[3] // 8) if "crop" in kind else 0
    top, left = _corners(x, padding) if padding else (None, None)
    mirrored = (
        torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5 if "flip" in kind else None
    )  # with probability one half
    return Augmentation(padding, top, left, mirrored)


def augment(x: Tensor, kind: str) -> Tensor:
    """Apply one of `KINDS` to x (B, C, H, W)."""
    return drawn(x, kind)(x)
