"""Which job when: as many at once as there are places, each after the one it needs; one that fails stops no other."""

import time
from collections.abc import Sequence
from typing import Protocol

from mmard.study.jobs import Job

TICK = 0.1
"""Seconds between two looks."""


class Backend(Protocol):
    """Where jobs run: processes of this machine, or of many."""

    def room(self) -> bool:
        """Can another job start now?"""
        ...

    def start(self, job: Job) -> None:
        """Start it and come back at once."""
        ...

    def ended(self) -> list[tuple[Job, str | None]]:
        """The jobs that have ended since the last call, with their error, None where all is well."""
        ...

    def stop(self) -> None:
        """Stop what is running."""
        ...


class Listener:
    """Told of what happens; this one says nothing."""

    def started(self, job: Job) -> None:
        """A job runs."""

    def ended(self, job: Job, error: str | None) -> None:
        """A job is over; ``error`` is one line, None where all is well."""

    def on_progress(self) -> None:
        """Time has passed."""


def run_all(jobs: Sequence[Job], backend: Backend, audience: Listener) -> dict[str, str]:
    """Do all the jobs, in their order as far as there is room; returns name → error of those that failed."""
    waiting, running = list(jobs), 0
    failed: dict[str, str] = {}
    unfinished = {job.name for job in jobs}

    def sync(job: Job, error: str | None) -> None:
        unfinished.discard(job.name)
        if error is not None:
            failed[job.name] = error
        audience.ended(job, error)

    try:
        while waiting or running:
            for job in [j for j in waiting if j.needs in failed]:
                waiting.remove(job)
                sync(job, f"{job.needs} failed")
            for job in [j for j in waiting if j.needs not in unfinished]:
                if not backend.room():
                    break
                waiting.remove(job)
                backend.start(job)
                running += 1
                audience.started(job)
            for job, error in backend.ended():
                running -= 1
                sync(job, error)
            audience.on_progress()
            time.sleep(TICK)
    finally:
        backend.stop()
    return failed
