"""Augmentation in batch, on whatever device the images are."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmard.core.errors import MmardError

KINDS = ("none", "crop", "flip", "crop+flip")


def random_crop(x: Tensor, padding: int) -> Tensor:
    """Pad with zeros on all sides, then cut a window of the old size at a random place for each image."""
    b, _, h, w = x.shape
    padded = F.pad(x, [padding] * 4)
    top, left = torch.randint(0, 2 * padding + 1, (2, b, 1, 1), device=x.device)
    rows = top + torch.arange(h, device=x.device).view(1, h, 1)
    columns = left + torch.arange(w, device=x.device).view(1, 1, w)
    each = torch.arange(b, device=x.device).view(b, 1, 1)
    return padded.permute(0, 2, 3, 1)[each, rows, columns].permute(0, 3, 1, 2)


def random_flip(x: Tensor) -> Tensor:
    """Mirror each image with probability one half."""
    flip = torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5
    return torch.where(flip, x.flip(3), x)


def augment(x: Tensor, kind: str) -> Tensor:
    """Apply one of `KINDS` to x (B, C, H, W); the crop pads an eighth of the width (4 pixels at 32)."""
    if kind not in KINDS:
        raise MmardError(f"augment {kind!r} is not known; expected one of {', '.join(KINDS)}")
    if "crop" in kind:
        x = random_crop(x, max(1, x.shape[3] // 8))
    if "flip" in kind:
        x = random_flip(x)
    return x
