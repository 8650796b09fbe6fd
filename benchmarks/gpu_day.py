"""Run the studies of an hour with a GPU, many small runs at once on one device, teachers first; stopped by the clock, then packed.

    python benchmarks/gpu_day.py docs/results/cifar10-gpu/plan/plan.yaml --minutes 50 --jobs 14 --pack OUT

In the plan ``teachers`` maps a name to settings, run into ``runs/teachers/NAME``; ``studies`` lists study files in the order of
their value; an entry may choose ``rows`` and ``seeds``, or ``judge`` a teacher ``by`` an evaluation. A cell waits for the teacher
whose folder its settings name. ``judge: false`` in an entry trains and does not judge; ``again`` judges its cells once more, by
another evaluation; ``keep`` maps rows to the weights of theirs that come home, in half precision.
A run is an ordinary run folder, so the same command goes on where it was. What is packed: records, weights, logs.
"""

import argparse
import multiprocessing
import os
import shutil
import sys
import tarfile
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import datasets  # noqa: F401  (these three so that the processes forked from here need not import them)
import lightning_fabric  # noqa: F401
import pyautoattack  # noqa: F401
import torch
import yaml

from mmard.api.settings import read_settings
from mmard.models.weights import load_weights, metadata_of, save_weights
from mmard.study.grid import cells_of
from mmard.study.jobs import Job
from mmard.study.local_backend import LocalBackend, gpus, slots
from mmard.study.queue import Backend, Listener, run_all
from mmard.study.spec import Evaluation, read_study
from mmard.study.worker import as_dict, log_file, run_job

TEACHERS = Path("runs/teachers")
LEFT = {"checkpoint.pt", ".lock"}
NOT_RECORDS = {".safetensors", ".png", ".half"}
MIB = 1 << 20
LARGEST = 15 * MIB
FORK = multiprocessing.get_context("fork")
PACK_EVERY = 100.0


class OutOfTimeError(Exception):
    """The minutes are over."""


class Clock(Listener):
    """Says a line for what begins and ends, packs now and then, and stops everything when the time is over."""

    def __init__(self, minutes: float, pack: Path) -> None:
        self.begun, self.pack = time.monotonic(), pack
        self.end, self.packed = self.begun + 60 * minutes, self.begun

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.begun:.0f} s] {text}", flush=True)

    def started(self, job: Job) -> None:
        self.say(f"+ {job.name}")

    def ended(self, job: Job, error: str | None) -> None:
        log = Path(job.settings.out) / "log.txt"
        last = log.read_text().strip().split("\n")[-1] if log.exists() else ""
        self.say(f"- {job.name}: {error or last}"[:240])

    def polled(self) -> None:
        now = time.monotonic()
        if now > self.end:
            raise OutOfTimeError
        if now > self.packed + PACK_EVERY:
            self.packed = now
            pack(self.pack, {})


class Forked:
    """A `Backend` that forks this process, which has imported what a run needs: that took a quarter of a short run's time."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.running: list[tuple[Job, BaseProcess]] = []

    def room(self) -> bool:
        return len(self.running) < self.count

    def start(self, job: Job) -> None:
        process = FORK.Process(target=_run, args=(job,), daemon=True)
        process.start()
        self.running.append((job, process))

    def ended(self) -> list[tuple[Job, str | None]]:
        over = [entry for entry in self.running if not entry[1].is_alive()]
        self.running = [entry for entry in self.running if entry not in over]
        return [(job, None if process.exitcode == 0 else f"ended by {process.exitcode}") for job, process in over]

    def stop(self) -> None:
        for _, process in self.running:
            process.kill()
            process.join()


def _run(job: Job) -> None:
    """Run a job in this process, its output in its log."""
    log = log_file(job.settings.out)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    error = run_job(as_dict(job))
    if error:
        print(f"error: {error}")
    sys.stdout.flush()
    os._exit(1 if error else 0)


def _find_the_one_gpu() -> None:
    """End this process with 0 only where there is one GPU, and it works here."""
    works = torch.cuda.device_count() == 1 and len(torch.zeros(1, device="cuda")) == 1
    sys.exit(0 if works else 1)


def backend(jobs: int) -> Backend:
    """Choose forks where the one GPU can be had in them, else processes that begin anew, dealt out over the GPUs."""
    trial = FORK.Process(target=_find_the_one_gpu)
    trial.start()
    trial.join()
    return LocalBackend(slots(jobs, 1, gpus())) if trial.exitcode else Forked(jobs)


def shares(files: list[Path]) -> list[list[Path]]:
    """Deal out files in their order, each share small enough to come home as one."""
    dealt: list[list[Path]] = []
    size = LARGEST
    for path in files:
        if size + path.stat().st_size > LARGEST:
            dealt, size = [*dealt, []], 0
        dealt[-1].append(path)
        size += path.stat().st_size
    return dealt


def pack(to: Path, keep: dict[str, list[str]]) -> None:
    """Write what must come home: records, and in half precision teachers and the weights to keep."""
    to.mkdir(parents=True, exist_ok=True)
    runs = sorted(
        path for path in Path("runs").rglob("*") if path.is_file() and path.name not in LEFT and path.suffix != ".part"
    )
    kinds = {
        "records": [p for p in runs if p.suffix not in NOT_RECORDS and p.stat().st_size < MIB],
        "verdicts": [p for p in runs if p.name == "verdicts.safetensors"],
    }
    ended = [p.parent for p in runs if p.name == "last.safetensors"]
    kept = [p / name for row, names in keep.items() for p in ended if p.parent.name == row for name in names]
    weights = [_half(path, path.with_suffix(".half")) for path in kept]
    kinds |= {f"weights-{i}": some for i, some in enumerate(shares(weights))}
    for kind, files in kinds.items():
        part = Path(f"runs/.{kind}.part")  # a kill leaves the last whole one in its place
        with tarfile.open(part, "w:gz", compresslevel=1) as file:
            for path in files:
                file.add(path, arcname=str(path))
        shutil.move(part, to / f"{kind}.tgz")
    for best in TEACHERS.glob("*/best.safetensors"):
        if (best.parent / "last.safetensors").exists():
            _half(best, to / f"{best.parent.name}.safetensors")


def _half(weights: Path, to: Path) -> Path:
    """Write weights in half precision, once."""
    if not to.exists():
        save_weights(to, load_weights(weights).half(), metadata_of(weights))
    return to


def jobs_of(plan: dict[str, Any]) -> list[Job]:
    """List the teachers, then the cells by the order of the studies, then the teachers' evaluations where the plan has them."""
    jobs, names = [], {}
    for name, given in plan.get("teachers", {}).items():
        out = str(TEACHERS / name)
        names[out] = name
        jobs.append(Job(name, read_settings({**plan.get("common", {}), **given, "out": out}, trust=True)))
    for entry in plan["studies"]:
        if isinstance(entry.get("judge"), str):
            teacher = next(job for job in jobs if job.name == entry["judge"])
            jobs.append(Job(f"{teacher.name} judged", teacher.settings, Evaluation(**entry["by"]), needs=teacher.name))
            continue
        study = read_study(entry["study"], trust=True)
        cells = [c for c in cells_of(study) if c.settings.seed in entry.get("seeds", study.seeds)]
        for cell in cells:
            if "rows" in entry and not set(entry["rows"]) & set(cell.labels.values()):
                continue
            needs = names.get(cell.settings.teacher or "", entry.get("after"))
            name = f"{study.folder.name}/{cell.name}"
            if "again" in entry:
                again = Evaluation(**entry["again"])
                jobs.append(Job(f"{name} {again.checkpoint} {again.attacks}", cell.settings, again, needs=name))
            else:
                by = None if entry.get("judge") is False else study.evaluate
                jobs.append(Job(name, cell.settings, by, needs=needs))
    first: dict[str, Job] = {}
    for job in jobs:
        first.setdefault(job.name, job)  # a cell that two entries name runs at the first
    return list(first.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--minutes", type=float, default=50)
    parser.add_argument("--jobs", type=int, default=14)
    parser.add_argument("--pack", type=Path, default=Path("runs/pack"))
    asked = parser.parse_args()
    plan = yaml.safe_load(asked.plan.read_text())
    clock = Clock(asked.minutes, asked.pack)
    jobs = [job for job in jobs_of(plan) if job.state() != "done"]
    clock.say(f"{len(jobs)} jobs")
    try:
        failed = run_all(jobs, backend(asked.jobs), clock)
        clock.say(f"done; failed: {failed or 'none'}")
    except OutOfTimeError:
        clock.say("out of time; the same command goes on")
    finally:
        pack(asked.pack, plan.get("keep", {}))


if __name__ == "__main__":
    main()
