"""Resources of a run besides time: memory, and energy where the driver counts it."""

import ctypes
import math
import resource
import sys
from collections.abc import Callable
from contextlib import suppress

import torch

from mmard.training.engine import Engine


class ResourceMeter:
    """A meter of peak memory and energy of a run's processes, an epoch at a time.

    Memory is the largest of the processes': of the GPU what PyTorch had in use at once, elsewhere the process's largest resident
    set. Energy is that of the GPUs' boards by NVML, with whatever else ran on them; without NVML there is none.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine, self.counter, self.begun = engine, _counter(engine.device), math.nan

    def start(self) -> None:
        """Start to count energy."""
        self.begun = self.counter()

    def spent(self) -> dict[str, float]:
        """Return ``peak_mib`` since the process began and, where known, ``joules`` since `start`; alike in every process."""
        found = {"peak_mib": self.engine.greatest(peak_mib(self.engine.device))}
        joules = torch.tensor(self.counter() - self.begun, dtype=torch.float64, device=self.engine.device)
        total = self.engine.all_reduce_sum(joules).item()
        return found | ({"joules": total} if math.isfinite(total) else {})


def peak_mib(device: torch.device) -> float:
    """Return the most memory in use at once since the process began, in MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


class _Nvml:
    """The driver's energy counter of one GPU."""

    def __init__(self, uuid: str) -> None:
        self.library, self.device = ctypes.CDLL("libnvidia-ml.so.1"), ctypes.c_void_p()
        if self.library.nvmlInit_v2() or self.library.nvmlDeviceGetHandleByUUID(
            uuid.encode(), ctypes.byref(self.device)
        ):
            raise OSError("NVML does not know this GPU")

    def __call__(self) -> float:
        """Return the joules since the driver was loaded; NaN where this GPU does not count them."""
        millijoules = ctypes.c_ulonglong()
        failed = self.library.nvmlDeviceGetTotalEnergyConsumption(self.device, ctypes.byref(millijoules))
        return math.nan if failed else millijoules.value / 1000


def _counter(device: torch.device) -> Callable[[], float]:
    if device.type == "cuda":
        with suppress(OSError, AttributeError):  # no driver of this vendor, or an old one
            return _Nvml(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    return lambda: math.nan
