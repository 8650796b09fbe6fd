"""Tiny data and networks for the tests."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from mmard.data.images import Images
from mmard.models.architectures import Architecture, Classifier, build

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SEED = int(os.environ.get("MMARD_TEST_SEED", "0"))
"""Of the networks and images that tests share: what a test asserts must hold for any (CONTRIBUTING.md)."""
Run = Callable[..., subprocess.CompletedProcess[str]]

# settings that make a run on digits a matter of a second
QUICK = [
    "data.limit=300",
    "train.epochs=2",
    "train.batch_size=50",
    "attack.steps=2",
    "validation.steps=2",
    "threat.eps=0.1",
    "teacher_check=none",  # after a second's training, or none, a teacher is near chance
]


def blobs(n: int = 120, classes: int = 4, channels: int = 1, size: int = 8, seed: int = 0) -> Images:
    """Noisy images, a bright quarter for each of four classes: learnt in a second."""
    draw = torch.Generator().manual_seed(seed + 1000 * SEED)
    y = torch.arange(n) % classes
    x = 0.3 * torch.rand(n, channels, size, size, generator=draw)
    half = size // 2
    for i in range(n):
        row, column = divmod(int(y[i]) % 4, 2)
        x[i, :, row * half : (row + 1) * half, column * half : (column + 1) * half] += 0.5
    return Images.of(x, y, tuple(map(str, range(classes))))


def small_net(classes: int = 4, channels: int = 1, name: str = "cnn-4-2", seed: int = 0) -> Classifier:
    """An untrained classifier."""
    torch.manual_seed(seed + 1000 * SEED)
    return build(Architecture(name=name, classes=classes, channels=channels))


def command(*words: object) -> list[str]:
    """The command line that a user would type."""
    return [sys.executable, "-m", "mmard", *map(str, words)]
