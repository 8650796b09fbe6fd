"""Run folders made by hand, with figures that a test knows."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from mmard.evaluation.examples import Examples
from mmard.evaluation.scores import Scores

CLASSES = ("cat", "dog", "<b>&owl</b>")
LABELS = torch.tensor([0] * 4 + [1] * 4 + [2] * 2)
SETTINGS: dict[str, Any] = {
    "about": "made by hand", "method": "rslad", "student": "cnn-2-1", "teacher": "runs/teacher", "seed": 0, "out": "runs/a",
    "data": {"name": "digits"}, "threat": {"eps": 8 / 255, "norm": "linf"}, "train": {"epochs": 3},
}  # fmt: skip


def verdicts(clean: Sequence[int], robust: Sequence[int]) -> Tensor:
    """(10, 2): who is right without and with an attack."""
    return torch.tensor([clean, robust]).T.bool()


def scores(correct: Tensor, labels: Tensor | None = LABELS, **metadata: Any) -> Scores:
    """Of one attack."""
    details = ("no attack", "cross-entropy, 20 steps of 2/255, start uniform")
    known = {"threat": "L∞ 8/255", "classes": list(CLASSES), "asked": {"attacks": "pgd-20", "limit": 10}, **metadata}
    return Scores(correct, ("clean", "PGD-20"), details, (0.5, 60.0), torch.arange(len(correct)), known, labels=labels)


def judge(run: Path, name: str, *attacks: str, of: str = "best.safetensors", **metadata: Any) -> None:
    """One more evaluation of a run folder: every attack leaves the same half right."""
    correct = verdicts([1] * 9 + [0], [1] * 5 + [0] * 5)[:, [0] + [1] * len(attacks)]
    asked = {"attacks": None, "limit": None, "batch_size": 500, "seed": 0, "overrides": {}, **metadata.pop("asked", {})}
    labels = metadata.pop("labels", LABELS)
    base = scores(correct, labels, **{"model": f"somewhere/{of}", "asked": asked, **metadata})
    named = {"attacks": ("clean", *attacks), "details": ("no attack", *(f"as {name} is" for name in attacks))}
    replace(base, **named, seconds=(1.0,) * (1 + len(attacks))).save(run / "eval" / name)  # type: ignore[arg-type]


def curve(accuracy: Sequence[float] = (90.0, 50.0, 0.0)) -> dict[str, Any]:
    """Three radii."""
    found = {"attack": "PGD-20", "detail": "as it is", "norm": "linf", "eps": 8 / 255, "samples": 10}
    low, high = [max(0.0, a - 5) for a in accuracy], [min(100.0, a + 5) for a in accuracy]
    return {**found, "radii": [0.0, 8 / 255, 32 / 255], "accuracy": list(accuracy), "low": low, "high": high}


def shown() -> Examples:
    """Two images of 4×4."""
    x = torch.full((2, 1, 4, 4), 100, dtype=torch.uint8)
    x_adv = x.float() / 255 + 0.03 * torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
    said, sure = torch.tensor([[0, 1], [2, 2]]), torch.tensor([[0.9, 0.6], [0.8, 0.7]])
    metadata = {
        "attack": "PGD-20",
        "detail": "20 steps",
        "norm": "linf",
        "eps": repr(8 / 255),
        "classes": list(CLASSES),
    }
    return Examples(x, x_adv, torch.tensor([0, 2]), torch.tensor([5, 7]), said, sure, metadata)


def make_run(
    path: Path,
    *,
    robust: Sequence[float] = (20.0, 40.0, 30.0),
    judged: Scores | None = None,
    extra: bool = True,
    **changes: Any,
) -> Path:
    """A run folder of three epochs of ten steps, one second each."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "settings.yaml").write_text(yaml.safe_dump({**SETTINGS, "out": str(path), **changes}, allow_unicode=True))
    records = [
        {"step": 10 * i, "epoch": i, "loss": 3.0 / i, "seconds": 1.0, "images_per_second": 100.0, "data_wait": 0.0,
         "peak_mib": 300.0 + i, "clean": 80.0, "robust": value}
        for i, value in enumerate(robust, 1)
    ]  # fmt: skip
    (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    if judged is not None:
        judged.save(path / "eval/best_PGD-20")
        if extra:
            (path / "eval/best_PGD-20/curve.json").write_text(json.dumps(curve()))
            shown().save(path / "eval/best_PGD-20/examples.safetensors")
    return path
