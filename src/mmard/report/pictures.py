"""Images within a page: a few test images with what an attack made of them, and figures from files."""

import base64
import io
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mmard.evaluation.examples import Examples
from mmard.runs.record import threat_of
from mmard.utils.errors import first_line

LARGEST = 96
"""Pixels of a side; larger pictures are made smaller, for the page to stay light."""


def cards_of(examples: Examples, run: str) -> dict[str, Any]:
    """Collect what the page shows of a run's examples: a note, and a card an image."""
    eps = float(str(examples.metadata.get("eps", "0")) or 0)
    names = examples.metadata.get("classes")
    classes = [str(name) for name in names] if isinstance(names, list) else []
    attack = f"{examples.metadata.get('attack')} ({examples.metadata.get('detail')})"
    threat = threat_of({"threat": {"eps": eps, "norm": examples.metadata.get("norm")}})
    note = (
        f"{run}: {attack}, {threat}. Every class in proportion, not chosen by how they fare. In the middle x' − x, grey where "
        "nothing changed, stretched so that the largest change is black or white."
    )
    return {"note": note, "cards": [_card(examples, i, classes) for i in range(len(examples.x))]}


def _card(examples: Examples, i: int, classes: list[str]) -> dict[str, Any]:
    """Collect an image, its perturbation, its example, and what the model says of both."""
    x, x_adv = examples.x[i].float() / 255, examples.x_adv[i]
    largest = (x_adv - x).abs().max().item()
    grey = 0.5 + (x_adv - x) / (2 * max(largest, 1e-6))
    label, index = int(examples.labels[i]), int(examples.index[i])
    name = _name(classes, label)
    natural, adversarial = (int(k) for k in examples.said[i])
    sure = [100 * float(p) for p in examples.confidence[i]]
    told = {
        f"image {index}, {name}": x,
        f"its perturbation, at most {largest:.4f} of a pixel's range": grey,
        "x with it": x_adv,
    }
    fooled = natural == label != adversarial
    return {
        "kind": "fooled" if fooled else "kept" if adversarial == label else "wrong",
        "label": name,
        "images": [{"url": data_url(_picture(pixels)), "alt": alt} for alt, pixels in told.items()],
        "natural": _said(classes, natural, label, sure[0]),
        "adversarial": _said(classes, adversarial, label, sure[1]),
    }


def _said(classes: list[str], k: int, label: int, sure: float) -> str:
    mark = "✓" if k == label else "✗"
    return f"{mark} {_name(classes, k)} ({sure:.0f} %)"


def _name(classes: list[str], k: int) -> str:
    return classes[k] if 0 <= k < len(classes) else str(k)


def _picture(pixels: Tensor) -> Image.Image:
    """Make a picture of pixels (C, H, W) in [0, 1]."""
    levels = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    picture = Image.fromarray(levels[:, :, 0] if levels.shape[2] == 1 else levels)
    picture.thumbnail((LARGEST, LARGEST))
    return picture


def data_url(picture: Image.Image) -> str:
    """Encode a picture as a data URL of a PNG."""
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def figure_of(path: Path, alt: str, faults: list[str]) -> dict[str, str] | None:
    """Read a figure of a run folder, in fewer colours; None, with a line in ``faults``, where it cannot be read."""
    try:
        with Image.open(path) as picture:
            small = picture.convert("RGB").quantize(64)
    except (OSError, ValueError, SyntaxError) as e:  # what Pillow says of files that are no pictures
        faults.append(f"cannot read {path}: {first_line(e)}")
        return None
    return {"url": data_url(small), "alt": alt}
