"""Images within a page: a few test images with what an attack made of them, and figures from files."""

import base64
import io
import math
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
EXACT = 32
"""Pixels of a side up to which a picture keeps every pixel; larger ones are JPEG."""


def cards_of(examples: Examples, run: str, room: int) -> dict[str, Any]:
    """Collect what the page shows of a run's examples: a note, and a card an image.

    Args:
        room: bytes of the pictures together; the first image is shown whatever it takes.
    """
    eps = float(str(examples.metadata.get("eps", "0")) or 0)
    names = examples.metadata.get("classes")
    classes = [str(name) for name in names] if isinstance(names, list) else []
    attack = f"{examples.metadata.get('attack')} ({examples.metadata.get('detail')})"
    threat = threat_of({"threat": {"eps": eps, "norm": examples.metadata.get("norm")}})
    note = (
        f"{run}: {attack}, {threat}. Every class in proportion, not chosen by how they fare. In the middle x' − x, grey where "
        "nothing changed, stretched so that the largest change is black or white."
    )
    cards: list[dict[str, Any]] = []
    for i in range(len(examples.x)):
        card = _card(examples, i, classes)
        room -= sum(len(image["url"]) for image in card["images"])
        if room < 0 and cards:
            note += f" Of {len(examples.x)} images the first {len(cards)}: the page has no room for more."
            break
        cards.append(card)
    return {"note": note, "cards": cards}


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
        "images": [_image(pixels, alt) for alt, pixels in told.items()],
        "natural": _said(classes, natural, label, sure[0]),
        "adversarial": _said(classes, adversarial, label, sure[1]),
    }


def _said(classes: list[str], k: int, label: int, sure: float) -> str:
    mark = "✓" if k == label else "✗"
    return f"{mark} {_name(classes, k)} ({sure:.0f} %)"


def _name(classes: list[str], k: int) -> str:
    return classes[k] if 0 <= k < len(classes) else str(k)


def _image(pixels: Tensor, alt: str) -> dict[str, str]:
    picture = _picture(pixels)
    return {"url": data_url(picture, "png" if max(picture.size) <= EXACT else "jpeg"), "alt": alt}


def _picture(pixels: Tensor) -> Image.Image:
    """Make a picture of pixels (C, H, W) in [0, 1]."""
    levels = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    picture = Image.fromarray(levels[:, :, 0] if levels.shape[2] == 1 else levels)
    picture.thumbnail((LARGEST, LARGEST))
    return picture


def data_url(picture: Image.Image, kind: str = "png") -> str:
    """Encode a picture as a data URL: as ``png``, which keeps every pixel, or as ``jpeg``."""
    file = io.BytesIO()
    picture.save(file, kind, optimize=True)
    return f"data:image/{kind};base64," + base64.b64encode(file.getvalue()).decode()


def figure_of(path: Path, alt: str, faults: list[str], room: int) -> dict[str, str] | None:
    """Read a figure of a run folder, in fewer colours and, to fit into ``room`` bytes, smaller.

    Returns None, with a line in ``faults``, where it cannot be read.
    """
    try:
        with Image.open(path) as file:
            picture = file.convert("RGB")
    except (
        OSError,
        ValueError,
        SyntaxError,
        Image.DecompressionBombError,
    ) as e:  # what Pillow says of what it cannot show
        faults.append(f"cannot read {path}: {first_line(e)}")
        return None
    url = data_url(picture.quantize(64))
    while len(url) > room and max(picture.size) > LARGEST:
        side = 0.9 * min(1.0, math.sqrt(room / len(url)))
        picture.thumbnail((max(1, int(side * picture.width)), max(1, int(side * picture.height))))
        url = data_url(picture.quantize(64))
    return {"url": url, "alt": alt}
