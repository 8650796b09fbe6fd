"""Verdicts of an evaluation in files, so that one that was killed goes on."""

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
    """A store of the verdicts of each batch."""

    def once(self, key: str, find: Callable[[], Tensor]) -> Timed:
        """Return the value under this key, computing it unless this or a stopped evaluation has done so."""


class NoCache:
    """A cache that stores nothing."""

    def once(self, key: str, find: Callable[[], Tensor]) -> Timed:
        begun = time.perf_counter()
        value = find()
        return value, time.perf_counter() - begun


class DiskCache(NoCache):
    """A cache with a file for each key, written whole or not at all; values come back on the CPU or the device they were on."""

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
    """Hash weights, images, and all else that verdicts depend on; evaluations with the same hash may share verdicts."""
    return hashlib.sha256(f"{metadata!r} {digest_of(tensors, {})}".encode()).hexdigest()[:16]
