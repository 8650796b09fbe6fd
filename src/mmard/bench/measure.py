"""Measurements of time, memory and operations, paired and repeated in one process, so that drift cancels."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mmard.core.views import held_still

Step = Callable[[], object]


def synchronized(device: torch.device) -> float:
    """Return the time in seconds, after the device has done its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def paired_seconds(steps: Mapping[str, Step], device: torch.device, repeats: int) -> dict[str, list[float]]:
    """Time each step in turn, A B C A B C ..., after one turn that is not counted; in seconds."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + 1):
        for name, step in steps.items():
            begun = synchronized(device)
            step()
            if turn:
                seconds[name].append(synchronized(device) - begun)
    return seconds


@dataclass(frozen=True)
class Ratio:
    """A speed-up: median over pairs, with the smallest and the largest."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(slow: list[float], fast: list[float]) -> "Ratio":
        """Compute the ratio from the seconds of both, pair by pair."""
        each = [a / b for a, b in zip(slow, fast, strict=True)]
        return Ratio(statistics.median(each), min(each), max(each))


def forward_flops(network: nn.Module, x: Tensor) -> float:
    """Count the operations of one forward pass: convolutions and matrix products, a multiply-add is two."""
    with FlopCounterMode(display=False) as counter, torch.no_grad(), held_still(network):
        network(x)
    return float(counter.get_total_flops())


def matrix_peak(device: torch.device, dtype: torch.dtype = torch.float32, seconds: float = 1.0) -> float:
    """Measure the operations a second of a large matrix product: the most that the machine can do."""
    n = 8192 if device.type == "cuda" else 1536
    a, best = torch.randn(n, n, device=device, dtype=dtype), 0.0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        begun = synchronized(device)
        a @ a
        best = max(best, 2 * n**3 / (synchronized(device) - begun))
    return best
