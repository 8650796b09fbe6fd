"""What an evaluation has found so far, in files, so that a killed one goes on."""

import hashlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor

from mmard.models.tensor_files import digest_of, load_tensors, save_tensors
from mmard.utils.errors import MmardError

Timed = tuple[Tensor, float]
"""A value, and the seconds that it took to find."""


class Cache(Protocol):
    """Where the verdicts of each batch go as soon as they are there."""

    def once(self, key: str, find: Callable[[], Tensor]) -> Timed:
        """What was found under this key, now or by an evaluation that was stopped."""


class NoCache:
    """Nothing is kept."""

    def once(self, key: str, find: Callable[[], Tensor]) -> Timed:
        begun = time.perf_counter()
        value = find()
        return value, time.perf_counter() - begun


class DiskCache(NoCache):
    """A file for each key; it is there whole or not at all. Values come back on the CPU or on the device they were found on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def once(self, key: str, find: Callable[[], Tensor]) -> Timed:
        path = self.folder / f"{key}.safetensors"
        if (found := _read(path)) is not None:
            return found
        value, seconds = super().once(key, find)
        save_tensors(path, {"value": value, "seconds": torch.tensor(seconds, dtype=torch.float64)})
        return value, seconds


def _read(path: Path) -> Timed | None:
    try:
        tensors, _ = load_tensors(path)
        return tensors["value"], tensors["seconds"].item()
    except (OSError, SafetensorError, MmardError, KeyError):  # not there, or damaged: it is found again
        return None


def fingerprint(tensors: Mapping[str, Tensor], *metadata: object) -> str:
    """A name for weights, images, and all else that verdicts depend on; two evaluations of one name may share what they found."""
    return hashlib.sha256(f"{metadata!r} {digest_of(tensors, {})}".encode()).hexdigest()[:16]
