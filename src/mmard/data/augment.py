"""Augmentation in batch, on the images' device. The geometric part has an adjoint: warm starts move perturbations by it.

The label stays that of the image itself. CutMix pastes less than half of another image, so the larger part is still the
image's own; a teacher's soft label is its prediction for the mixed image, so nothing needs to be mixed but the images.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from mmard.core.threat import per_sample
from mmard.utils.errors import MmardError
from mmard.utils.numbers import share_of_run
from mmard.utils.validation import Positive, Section

Kind = Literal[
    "none", "crop", "flip", "crop+flip", "crop+flip+cutmix", "idbh", "idbh+cutmix", "zoom+flip", "zoom+flip+cutmix"
]
KINDS: tuple[str, ...] = get_args(Kind)
LEAST_AREA, WIDEST = 0.08, 4 / 3  # of a zoom's window: its share of the area, its width by its height
MOST_COLOUR, MOST_TURN, MOST_SHEAR = 0.5, math.pi / 6, 0.3  # of a colour's factor from 1, of an angle, of a slope
ERASED = (0.02, 0.33)  # share of an image's area


class LateAugmentation(Section):
    """Another kind of augmentation later.

    Args:
        kind: the kind from then on.
        after: epochs until then; below 1: share of the run.
    """

    kind: Kind
    after: Positive = 0.5


def kind_at(progress: float, epochs: int, kind: str, late: LateAugmentation | None) -> str:
    """Return the kind of augmentation when this share of a run of so many epochs is done."""
    return kind if late is None or progress < share_of_run(late.after, epochs) else late.kind


@dataclass(frozen=True, eq=False)
class Augmentation:
    """The geometric augmentation of a batch: each image padded with zeros, cropped at a place of its own, mirrored or not.

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
        """Crop and mirror x (B, C, H, W); linear in x."""
        if self.top is not None and self.left is not None:
            x = _window(x, self.padding, self.top, self.left)
        return x if self.mirrored is None else torch.where(self.mirrored, x.flip(3), x)

    def back(self, delta: Tensor) -> Tensor:
        """Apply the adjoint: a perturbation of the augmented images in the original frame, 0 outside of the crop."""
        with torch.enable_grad():
            source = torch.zeros_like(delta).requires_grad_()
            (found,) = torch.autograd.grad(self(source), source, delta)
        return found

    def of_rows(self, rows: Tensor | slice) -> "Augmentation":
        """Restrict the augmentation to some of the images."""
        return self._each(lambda t: t[rows])

    def to(self, device: torch.device) -> "Augmentation":
        """Move it to the images' device."""
        return self._each(lambda t: t.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Augmentation":
        parts = (None if t is None else change(t) for t in (self.top, self.left, self.mirrored))
        return Augmentation(self.padding, *parts)


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


def sample_crop(x: Tensor, kind: str) -> Augmentation:
    """Draw the crop and the flip of a kind of `KINDS` for each image of x (B, C, H, W).

    The crop pads an eighth of the width, 4 pixels at 32.
    """
    if kind not in KINDS:
        raise MmardError(f"augment {kind!r} is not known; expected one of {', '.join(KINDS)}")
    parts = kind.split("+")
    padding = max(1, x.shape[3] // 8) if "crop" in parts or "idbh" in parts else 0
    top, left = _corners(x, padding) if padding else (None, None)
    flips = "flip" in parts or "idbh" in parts
    mirrored = torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5 if flips else None  # with probability one half
    return Augmentation(padding, top, left, mirrored)


def random_zoom(x: Tensor) -> Tensor:
    """Cut a window of random place, size and shape out of each image and enlarge it to the whole (bilinear).

    As torchvision's ``RandomResizedCrop``, with its strengths, but from the image at its training size.
    """
    area = LEAST_AREA + (1 - LEAST_AREA) * torch.rand(len(x), device=x.device)
    ratio = (math.log(WIDEST) * _symmetric(x)).exp()
    wide, high = (area * ratio).sqrt().clamp_max(1), (area / ratio).sqrt().clamp_max(1)
    right, down, zero = (1 - wide) * _symmetric(x), (1 - high) * _symmetric(x), torch.zeros_like(area)
    matrix = torch.stack([torch.stack(row, 1) for row in ((wide, zero, right), (zero, high, down))], 1)
    grid = F.affine_grid(matrix, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def random_colour_or_shape(x: Tensor) -> Tensor:
    """Change each image by one of brightness, contrast, saturation, rotation, shear, of random strength."""
    draw = torch.randint(0, 5, (len(x),), device=x.device)
    factor = 1 + MOST_COLOUR * _symmetric(x)
    grey = x.mean(1, keepdim=True)
    centres = (torch.zeros_like(grey), grey.mean((2, 3), keepdim=True), grey)
    for kind, centre in enumerate(centres):
        contrasted = (centre + per_sample(factor, x) * (x - centre)).clamp(0, 1)
        x = torch.where(per_sample(draw == kind, x), contrasted, x)
    angle, slope = MOST_TURN * _symmetric(x) * (draw == 3), MOST_SHEAR * _symmetric(x) * (draw == 4)
    zero = torch.zeros_like(angle)
    rows = (angle.cos(), slope - angle.sin(), zero), (angle.sin(), angle.cos(), zero)
    matrix = torch.stack([torch.stack(row, 1) for row in rows], 1)
    moved = F.grid_sample(x, F.affine_grid(matrix, list(x.shape), align_corners=False), align_corners=False)
    return torch.where(per_sample(draw >= 3, x), moved, x)


def random_erasing(x: Tensor) -> Tensor:
    """Erase a random box in half of the images; it becomes black."""
    low, high = ERASED
    share = low + (high - low) * torch.rand(len(x), device=x.device)
    erased = per_sample(torch.rand(len(x), device=x.device) < 0.5, x)
    return torch.where(erased & _boxes(x, share), torch.zeros_like(x), x)


def cutmix(x: Tensor) -> Tensor:
    """Replace a box of each image, less than half of its area, by that of its neighbour in the shuffled batch.

    (Yun et al., 2019, arXiv 1905.04899; the share is uniform in [0, ½), of the two images the larger part gives the label)
    """
    share = 0.5 * torch.rand(len(x), device=x.device)
    return torch.where(_boxes(x, share), x.roll(1, 0), x)


def _symmetric(x: Tensor) -> Tensor:
    """Draw one number in [−1, 1] for each image."""
    return 2 * torch.rand(len(x), device=x.device, dtype=x.dtype) - 1


def _boxes(x: Tensor, share: Tensor) -> Tensor:
    """Draw boxes (B, 1, H, W) of at most this share of the area, of the image's own shape, wholly inside it."""
    b, _, h, w = x.shape
    side = share.sqrt().view(b, 1)
    inside = []
    for length in (h, w):
        size = (side * length).floor()
        first = (torch.rand(b, 1, device=x.device) * (length - size + 1)).floor()
        place = torch.arange(length, device=x.device)
        inside.append((place >= first) & (place < first + size))
    return (inside[0].view(b, 1, h, 1)) & (inside[1].view(b, 1, 1, w))


def augment(x: Tensor, kind: str) -> tuple[Tensor, Augmentation]:
    """Apply one of `KINDS` to x (B, C, H, W), by torch's random numbers; returns what moved the images, too."""
    frame = sample_crop(x, kind)
    return apply_extra(frame(x), kind), frame


def apply_extra(x: Tensor, kind: str) -> Tensor:
    """Apply what a kind does beside moving an image: colour, shape, erasing, mixing.

    ``idbh``: after Li & Spratling, 2023, arXiv 2301.09879 ("Data augmentation alone can improve adversarial training"): flip, a
    crop that shifts, one change of colour or shape, erasing. The parts are theirs, the strengths (above) our own.
    """
    parts = kind.split("+")
    if "zoom" in parts:
        x = random_zoom(x)
    if "idbh" in parts:
        x = random_erasing(random_colour_or_shape(x))
    if "cutmix" in parts:
        x = cutmix(x)
    return x
