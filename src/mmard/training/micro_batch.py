"""Memory of a step, linear in its images, and the number of images that fit at once."""

import copy
import ctypes
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from mmard.attacks.inner.adaptive import EarlyStop, WarmStart
from mmard.attacks.inner.switching import CollapseGuard, StepSwitch
from mmard.attacks.pgd import Pgd
from mmard.core.method import Maximizer
from mmard.training.update import Update
from mmard.utils.errors import MmardError, first_line, is_out_of_memory

MicroBatch = int | Literal["auto"] | None
GIB = 2.0**30
FEW, MANY = 8, 32  # images of the steps that are measured, and how often each
TURNS = 2
SPARE = 1.1  # for what small steps do not show
HARMLESS = 20_000  # times an image's bytes: more than any network here takes for it


def _numbers(file: str) -> dict[str, int]:
    """Read numbers such as ``MemAvailable:  123 kB`` from a kernel file; empty where there is no such file."""
    try:
        lines = [line.replace(":", " ").split() for line in Path(file).read_text().splitlines()]
    except OSError:
        return {}
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}


def _give_back() -> None:
    """Return freed memory to the system (glibc), so that a peak shows all that a step takes."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def peak_bytes(step: Callable[[], object], device: torch.device) -> float | None:
    """Measure memory at a step's peak: allocated on a GPU, resident in the process on Linux; None where not known."""
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


def free_bytes(device: torch.device, sharing: int = 1) -> float | None:
    """Measure memory free for this process, one of ``sharing`` that share a host's memory; None where not known."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + kept)
    known = [free / sharing for free in (_machine_free(), _container_free()) if free is not None]
    return min(known, default=None)


def _machine_free() -> float | None:
    found = _numbers("/proc/meminfo").get("MemAvailable")
    return None if found is None else 1024.0 * found


def _container_free() -> float | None:
    """Return what the control group (version 2) leaves; files that it can drop count as free."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used = ((folder / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return None
    droppable = _numbers(str(folder / "memory.stat")).get("inactive_file", 0)
    return None if limit == "max" else float(int(limit) - int(used) + droppable)


@dataclass(frozen=True)
class Need:
    """The bytes of a step beyond those before the first: ``fixed`` + ``each`` · images."""

    fixed: float
    each: float

    @staticmethod
    def of(step: Callable[[int], object], device: torch.device, most: int = MANY) -> "Need | None":
        """Measure small steps of at most ``most`` images, after one that makes the optimiser's state.

        None where memory cannot be measured, or where there are too few images to draw a line.
        """
        many = min(MANY, most)
        few = max(many // 4, min(3, many))
        if few == many or (before := peak_bytes(lambda: None, device)) is None:
            return None
        step(few)
        peaks = {n: [peak_bytes(partial(step, n), device) or 0.0 for _ in range(TURNS)] for n in (few, many)}
        low, high = (SPARE * (max(peaks[n]) - before) for n in (few, many))
        each = max(1.0, (high - low) / (many - few))
        return Need(max(0.0, high - many * each), each)

    def bytes_for(self, images: int) -> float:
        """Return the bytes of a step on so many images."""
        return self.fixed + self.each * images

    def images_in(self, free: float) -> int:
        """Return how many images fit in so many bytes."""
        return max(0, int((free - self.fixed) / self.each))


def short(maximizer: Maximizer | None) -> Maximizer | None:
    """Shorten an attack to one that takes as much memory and less time: each step of a PGD takes the same again."""
    match maximizer:
        case WarmStart():
            return short(maximizer.process)  # its store is there already
        case StepSwitch() | CollapseGuard():
            return short(maximizer.then)
        case EarlyStop():
            return replace(maximizer, pgd=replace(maximizer.pgd, steps=1))
        case Pgd():
            return replace(maximizer, steps=1)
    return maximizer


def need_of(update: Update, shape: torch.Size, most: int = MANY) -> Need | None:
    """Measure this update's memory on images of shape (C, H, W), by copies of the networks; None where not known."""
    try:
        student, method = copy.deepcopy(
            (update.student, replace(update.method, maximizer=short(update.method.maximizer)))
        )
    except (RuntimeError, TypeError):  # somebody's term holds what cannot be copied
        return None
    copied = replace(update, student=student, method=method, compile=False)

    def step(images: int) -> None:
        x = torch.rand(images, *shape, device=update.engine.device).to(memory_format=torch.channels_last)
        copied(x, torch.arange(images, device=x.device) % 2, torch.arange(images, device=x.device), 0.5)

    try:
        with torch.random.fork_rng():
            return Need.of(step, update.engine.device, most)
    except (RuntimeError, MemoryError) as e:
        if not is_out_of_memory(e):
            raise
        what = f"even {min(MANY, most)} images at once do not fit on {update.engine.device}"
        raise MmardError(f"{what} ({first_line(e)}); {_cure([], begun=False)}, or a smaller train.batch_size") from e


def images_at_once(update: Update, shape: torch.Size, share: int, micro_batch: MicroBatch, begun: bool = False) -> int:
    """Choose how many of a process's ``share`` of a batch go through the networks at once; the same in every process.

    Args:
        shape: of an image, (C, H, W).
        micro_batch: so many; ``"auto"``: as many as fit and divide the share; None: all of them.
        begun: the run was begun with ``micro_batch``, which cannot be changed.

    Raises:
        MmardError: when they do not fit, with the bytes that are missing and what fits; or do not divide the share.
    """
    parts = [n for n in range(1, share + 1) if share % n == 0]
    if isinstance(micro_batch, int) and micro_batch not in parts:
        near = max(n for n in parts if n <= max(1, micro_batch))
        raise MmardError(
            f"engine.micro_batch {micro_batch} does not divide the {share} images of a process's batch; {near} does"
        )
    engine, images = update.engine, micro_batch if isinstance(micro_batch, int) else share
    free = engine.least(free_bytes(engine.device, engine.neighbours))
    if free is None or (micro_batch != "auto" and images * shape.numel() * 4 * HARMLESS < free):
        return images
    own = need_of(update, shape, share)
    if own is None:
        return images
    need = Need(engine.greatest(own.fixed), engine.greatest(own.each))
    most = need.images_in(free)
    fitting = [n for n in parts if n <= most]
    if micro_batch == "auto" and fitting:
        return fitting[-1]
    if images > most:
        missing = need.bytes_for(images) - free
        raise MmardError(
            f"{images} images at once need about {need.bytes_for(images) / GIB:.1f} GiB, {free / GIB:.1f} GiB are free "
            f"on {engine.device}: {missing / GIB:.1f} GiB are missing, {most} images would fit; {_cure(fitting, begun)}"
        )
    return images


def _cure(fitting: list[int], begun: bool) -> str:
    if begun:
        return "the run was begun so: resume it where they fit, or begin another with engine.micro_batch=auto in a new out="
    if fitting:
        return f"engine.micro_batch={fitting[-1]} (or auto) does the same batch in parts"
    return "choose a smaller student or teacher, or data.size="
