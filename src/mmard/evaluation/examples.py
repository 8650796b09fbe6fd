"""A few test images and their adversarial examples, for people to see."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from mmard.core.threat import Threat
from mmard.core.views import held_still
from mmard.data.images import Images, some
from mmard.evaluation.suite import suite
from mmard.models.tensor_files import load_tensors, save_tensors
from mmard.utils.errors import MmardError, first_line
from mmard.utils.precision import full_precision
from mmard.utils.text_files import parse_json

ATTACK = "PGD-20"


@dataclass(frozen=True, eq=False)
class Examples:
    """Images, their adversarial examples, and the model's predictions of both.

    Attributes:
        x: (n, C, H, W) uint8, the natural images.
        x_adv: (n, C, H, W) float32 in [0, 1].
        labels, index: (n,) int64: the class, and the image's stable number in the test set.
        said: (n, 2) int64, the model's class at x and at x'.
        confidence: (n, 2) float32, the probability that it gives that class.
        metadata: ``attack``, ``detail``, ``norm``, ``eps`` as text, ``classes`` as a list of names.
    """

    x: Tensor
    x_adv: Tensor
    labels: Tensor
    index: Tensor
    said: Tensor
    confidence: Tensor
    metadata: dict[str, str | list[str]]

    def save(self, path: Path) -> None:
        """Write a safetensors file in one step, with the metadata in its header."""
        names = ("x", "x_adv", "labels", "index", "said", "confidence")
        header = {key: json.dumps(value) for key, value in self.metadata.items()}
        save_tensors(path, {name: getattr(self, name) for name in names}, header)

    @staticmethod
    def load(path: Path) -> "Examples":
        """Read a file that `save` wrote.

        Raises:
            MmardError: for a file that is broken or of another kind.
        """
        try:
            tensors, header = load_tensors(path)
            return Examples(
                **tensors, metadata={key: parse_json(value, f"{path}, {key}") for key, value in header.items()}
            )
        except (SafetensorError, OSError, ValueError, TypeError) as e:
            raise MmardError(f"cannot read {path}: {first_line(e)}; mmard eval writes it anew") from e


def examples(model: nn.Module, images: Images, threat: Threat, *, count: int, seed: int = 0) -> Examples:
    """Attack ``count`` of the images by PGD-20, every class in proportion, chosen by the seed alone.

    Args:
        model: pixels in [0, 1] → logits, in whatever mode; it is given back as it was.
        count: how many; all of them where there are fewer.
    """
    spec = suite(seed=seed)[ATTACK]
    x, y, index = some(images, count, seed=0).batch(slice(None))
    torch.manual_seed(seed)
    with held_still(model), full_precision():
        x_adv = spec.attack(model, x, y, threat)
        with torch.no_grad():
            sure = torch.stack([model(at).softmax(1) for at in (x, x_adv)], 1)  # (n, 2, K)
    confidence, said = sure.max(2)
    metadata = {"attack": ATTACK, "detail": spec.detail(threat), "norm": threat.norm, "eps": repr(threat.eps)}
    pixels = (x * 255).round().to(torch.uint8)
    return Examples(pixels, x_adv.detach(), y, index, said, confidence, {**metadata, "classes": list(images.classes)})
