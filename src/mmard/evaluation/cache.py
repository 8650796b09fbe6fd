"""Verdicts of an evaluation in files, so that one that was killed goes on."""

import hashlib
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from mmard.core.views import held_still
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


def answers_of(network: nn.Module, x: Tensor) -> list[object]:
    """Compute logits (B, K) of images (B, C, H, W) and their gradients, rounded: other code of a network gives others.

    Coarse enough for two processors to agree, fine enough for another scale, shift or path of the gradient to show.
    """
    found: list[object] = []
    with suppress(Exception), held_still(network), torch.enable_grad():  # what is amiss is told where the attacks begin
        x = x.detach().clone().requires_grad_()
        logits = network(x).double()
        centred = logits - logits.mean(1, keepdim=True)
        found += [_rounded(logits.abs().amax()), _rounded(centred)]
        if logits.requires_grad:
            (grad,) = torch.autograd.grad((centred * torch.linspace(-1, 1, centred.shape[1]).to(centred)).sum(), x)
            slope = grad.double().flatten(1)
            along = slope @ torch.linspace(-1, 1, slope.shape[1], dtype=slope.dtype, device=slope.device)
            found.append(_rounded(torch.stack([slope.abs().sum(1), along])))
    return found


def _rounded(values: Tensor) -> tuple[str, object]:
    """Return the largest of the values in three digits, and each as a share of it in two."""
    largest = values.detach().abs().max()
    shares = (values.detach() / largest.clamp_min(1e-30)).round(decimals=2) + 0.0  # no zero is negative
    return f"{largest:.2e}", shares.tolist()


def fingerprint(tensors: Mapping[str, Tensor], *metadata: object) -> str:
    """Hash weights, images, and all else that verdicts depend on; evaluations with the same hash may share verdicts."""
    return hashlib.sha256(f"{metadata!r} {digest_of(tensors, {})}".encode()).hexdigest()[:16]
