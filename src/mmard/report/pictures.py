"""Images within a page: a few test images with what an attack made of them, and figures from files."""

import base64
import io
from html import escape
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from mmard.core.threat import in_255ths
from mmard.evaluation.examples import Examples
from mmard.utils.errors import first_line

LARGEST = 96
"""Pixels of a side; larger pictures are made smaller, for the page to stay light."""


def shown(examples: Examples, of: str) -> str:
    """A card an image: natural, perturbation, adversarial, and what the model says."""
    eps = float(str(examples.metadata.get("eps", "0")) or 0)
    names = examples.metadata.get("classes")
    classes = [str(name) for name in names] if isinstance(names, list) else []
    cards = "".join(_card(examples, i, eps, classes) for i in range(len(examples.x)))
    attack = f"{examples.metadata.get('attack')} ({examples.metadata.get('detail')})"
    norm = "L∞" if examples.metadata.get("norm") == "linf" else "L2"
    text = (
        f"{of}: {attack}, {norm} {in_255ths(eps)}. "
        "Every class in proportion, not chosen by how they fare. In the middle x' − x, grey where nothing changed, "
        "stretched so that the largest change is black or white."
    )
    return f'<p class="note">{escape(text)}</p><div class="cards">{cards}</div>'


def _card(examples: Examples, i: int, eps: float, classes: list[str]) -> str:
    x, x_adv = examples.x[i].float() / 255, examples.x_adv[i]
    delta = x_adv - x
    grey = 0.5 + delta / (2 * max(delta.abs().max().item(), 1e-6))
    label, index = int(examples.labels[i]), int(examples.index[i])
    natural, adversarial = (int(k) for k in examples.said[i])
    sure = [100 * float(p) for p in examples.confidence[i]]
    name = _name(classes, label)
    alts = (
        f"image {index}, {name}",
        f"its perturbation, at most {delta.abs().max():.4f} of a pixel's range",
        "x with it",
    )
    pictures = "".join(
        f'<img src="{data_url(_picture(pixels))}" alt="{escape(alt)}">'
        for pixels, alt in zip((x, grey, x_adv), alts, strict=True)
    )
    fooled = natural == label != adversarial
    words = f"{_said(classes, natural, label, sure[0])} → {_said(classes, adversarial, label, sure[1])}"
    kind = "fooled" if fooled else "kept" if adversarial == label else "wrong"
    return (
        f'<figure class="card {kind}"><div class="trio">{pictures}</div>'
        f"<figcaption><b>class {escape(name)}</b> <span>{words}</span></figcaption></figure>"
    )


def _said(classes: list[str], k: int, label: int, sure: float) -> str:
    mark = "✓" if k == label else "✗"
    return f"{mark} {escape(_name(classes, k))} ({sure:.0f} %)"


def _name(classes: list[str], k: int) -> str:
    return classes[k] if 0 <= k < len(classes) else str(k)


def _picture(pixels: Tensor) -> Image.Image:
    """(C, H, W) in [0, 1] → a picture."""
    levels = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    picture = Image.fromarray(levels[:, :, 0] if levels.shape[2] == 1 else levels)
    picture.thumbnail((LARGEST, LARGEST))
    return picture


def data_url(picture: Image.Image) -> str:
    """A PNG as an address that holds it."""
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def from_file(path: Path, alt: str, faults: list[str]) -> str:
    """A figure of a run folder, in fewer colours; empty, with a line in ``faults``, where it cannot be read."""
    try:
        with Image.open(path) as picture:
            small = picture.convert("RGB").quantize(64)
    except (OSError, ValueError, SyntaxError) as e:  # what Pillow says of files that are no pictures
        faults.append(f"cannot read {path}: {first_line(e)}")
        return ""
    return f'<figure class="plot"><img src="{data_url(small)}" alt="{escape(alt)}"></figure>'
