"""Backend of this machine: jobs as processes, with a GPU or a share of the cores each."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mmard.study.jobs import Job
from mmard.study.worker import as_dict, log_file
from mmard.utils.errors import MmardError, first_line
from mmard.utils.safe_open import open_to_append


@dataclass(frozen=True)
class Slot:
    """A slot for one process, given by environment variables."""

    environment: dict[str, str]


def cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[str]:
    """List the visible GPUs as CUDA_VISIBLE_DEVICES writes them."""
    import torch

    count = torch.cuda.device_count()
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return (named or [str(i) for i in range(count)])[:count]


def slots(jobs: int | None, threads: int | None, devices: Sequence[str]) -> list[Slot]:
    """Share out cores and GPUs among so many processes at once.

    Args:
        jobs: None: one a device, or one a core where there is none.
        threads: of each; None: the cores shared out. More threads than cores are several times slower than too few.
        devices: GPUs, dealt out in turn.
    """
    count = jobs or len(devices) or cores()
    each = threads or max(1, cores() // count)
    found = []
    for i in range(count):
        own = {"OMP_NUM_THREADS": str(each)}
        found.append(Slot(own | ({"CUDA_VISIBLE_DEVICES": devices[i % len(devices)]} if devices else {})))
    return found


class LocalBackend:
    """A `Backend` on this machine."""

    def __init__(self, free: Sequence[Slot]) -> None:
        self.free = list(free)
        self.running: list[tuple[Job, Slot, subprocess.Popen[str]]] = []
        self.stillborn: list[tuple[Job, str | None]] = []

    def room(self) -> bool:
        return bool(self.free)

    def start(self, job: Job) -> None:
        try:
            process = _process(log_file(job.settings.out), self.free[0])
        except (OSError, MmardError) as e:
            self.stillborn.append((job, f"cannot start: {log_file(job.settings.out)}: {first_line(e)}"))
            return
        self.running.append((job, self.free.pop(0), process))
        assert process.stdin is not None  # it is a pipe
        with suppress(BrokenPipeError):  # it has ended already, which is seen next
            process.stdin.write(json.dumps(as_dict(job)) + "\n")
            process.stdin.flush()  # and it stays open: when it closes, the process ends

    def ended(self) -> list[tuple[Job, str | None]]:
        over = [entry for entry in self.running if entry[2].poll() is not None]
        for entry in over:
            self.running.remove(entry)
            self.free.append(entry[1])
        stillborn, self.stillborn = self.stillborn, []
        return [*stillborn, *((job, _fault(job, process.returncode)) for job, _, process in over)]

    def stop(self) -> None:
        for _, _, process in self.running:
            process.kill()  # a run folder is whole at every moment
        for _, _, process in self.running:
            process.wait()
        self.running.clear()


def _process(log: Path, slot: Slot) -> subprocess.Popen[str]:
    """Start a worker that waits for its job and writes its output to the log."""
    # the same import path as here, so that a method found now is found there
    environment = {**os.environ, **slot.environment, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    log.parent.mkdir(parents=True, exist_ok=True)
    with open_to_append(log) as file:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "mmard.study.worker"],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
            env=environment,
            text=True,
            start_new_session=True,  # Ctrl-C is for the study, which stops its jobs itself
        )


def _fault(job: Job, code: int) -> str | None:
    if code == 0:
        return None
    if code < 0:
        name = signal.Signals(-code).name
        return f"ended by {name}{' (was there memory enough?)' if name == 'SIGKILL' else ''}"
    lines = log_file(job.settings.out).read_text(encoding="utf-8", errors="replace").split("\n")
    said = [line for line in lines if line.strip()]
    return said[-1].removeprefix("error: ") if said else f"ended with exit code {code} and no word"
