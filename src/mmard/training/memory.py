"""How much memory a step takes, which grows linearly with its images, and how many images fit at once."""

import copy
import ctypes
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, cast

import torch

from mmard.core.errors import MmardError
from mmard.training.update import Update

MicroBatch = int | Literal["auto"] | None
GIB = 2.0**30
TRIALS = (8, 16)  # images of the two steps that are measured
SPARE = 1.1  # for what two small steps do not tell: found on the CPU, 0.8 to 1.1 times the line at 128 images
HARMLESS = 20_000  # times an image's bytes: more than any network here takes for it


def _numbers(file: str) -> dict[str, int]:
    """Lines such as ``MemAvailable:  123 kB`` of a file of the kernel's; empty where there is no such file."""
    try:
        lines = [line.replace(":", " ").split() for line in Path(file).read_text().splitlines()]
    except OSError:
        return {}
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}


def _give_back() -> None:
    """Make the C library give freed memory back (glibc), so that a peak shows all that a step takes."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def peak_bytes(step: Callable[[], object], device: torch.device) -> float | None:
    """At the peak of a step: allocated on a GPU, resident in the process on Linux; None where nobody knows."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return float(torch.cuda.max_memory_allocated(device))
    _give_back()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # forget the highest mark
    except OSError:
        return None
    step()
    return 1024.0 * _numbers("/proc/self/status")["VmHWM"]


def free_bytes(device: torch.device) -> float | None:
    """Bytes that a device still has for this process; None where nobody knows."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + kept)
    return min((free for free in (_machine_free(), _container_free()) if free is not None), default=None)


def _machine_free() -> float | None:
    found = _numbers("/proc/meminfo").get("MemAvailable")
    return None if found is None else 1024.0 * found


def _container_free() -> float | None:
    """What the control group (version 2) leaves; files that it can drop are free."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used = ((folder / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return None
    droppable = _numbers(str(folder / "memory.stat")).get("inactive_file", 0)
    return None if limit == "max" else float(int(limit) - int(used) + droppable)


@dataclass(frozen=True)
class Need:
    """Bytes that a step takes beyond what is there before the first: ``fixed`` + ``each`` · images."""

    fixed: float
    each: float

    @staticmethod
    def of(step: Callable[[int], object], device: torch.device) -> "Need | None":
        """Measured on two small steps, after one that makes the optimiser's state; None where nobody knows."""
        before = peak_bytes(lambda: None, device)
        step(TRIALS[0])
        peaks = [peak_bytes(partial(step, images), device) for images in TRIALS]
        if before is None or None in peaks:
            return None
        few, many = (SPARE * (cast(float, peak) - before) for peak in peaks)
        each = max(1.0, (many - few) / (TRIALS[1] - TRIALS[0]))
        return Need(max(0.0, few - TRIALS[0] * each), each)

    def bytes_for(self, images: int) -> float:
        """Bytes of a step on so many images."""
        return self.fixed + self.each * images

    def images_in(self, free: float) -> int:
        """How many images fit in so many bytes."""
        return max(0, int((free - self.fixed) / self.each))


def need_of(update: Update, shape: torch.Size) -> Need | None:
    """Of this update on images of this shape (C, H, W); it runs on copies and changes nothing."""
    trial = replace(update, student=copy.deepcopy(update.student), method=copy.deepcopy(update.method), compile=False)

    def step(images: int) -> None:
        torch.manual_seed(0)
        x = torch.rand(images, *shape, device=update.engine.device).to(memory_format=torch.channels_last)
        trial(x, torch.arange(images, device=x.device) % 2, torch.arange(images, device=x.device), 0.5)

    return Need.of(step, update.engine.device)


def images_at_once(update: Update, shape: torch.Size, share: int, asked: MicroBatch) -> int:
    """How many of a process's ``share`` of a batch go through the networks at once.

    Args:
        shape: of an image, (C, H, W).
        asked: so many; ``"auto"``: as many as fit and divide the share; None: all of them.

    Raises:
        MmardError: when they do not fit, with the bytes that are missing and what fits; or do not divide the share.
    """
    if isinstance(asked, int) and share % asked:
        raise MmardError(f"engine.micro_batch {asked} does not divide the {share} images of a process's batch")
    engine, images = update.engine, asked if isinstance(asked, int) else share
    free = engine.least(free_bytes(engine.device))
    if free is None or (asked != "auto" and images * shape.numel() * 4 * HARMLESS < free):
        return images
    need = need_of(update, shape)
    if need is None:
        return images
    most = need.images_in(free)
    fitting = [n for n in range(1, share + 1) if share % n == 0 and n <= most]
    if asked == "auto" and fitting:
        return fitting[-1]
    if images > most:
        missing = need.bytes_for(images) - free
        cure = f"engine.micro_batch={fitting[-1]} (or auto) does the same batch in parts" if fitting else "none fits"
        raise MmardError(
            f"{images} images at once need about {need.bytes_for(images) / GIB:.1f} GiB, {free / GIB:.1f} GiB are free "
            f"on {engine.device}: {missing / GIB:.1f} GiB are missing, {most} images would fit; {cure}"
        )
    return images
