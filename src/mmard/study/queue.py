"""The queue of jobs: as many at once as there is room, each after the one it needs; one that fails stops no other."""

import time
from collections.abc import Sequence
from typing import Protocol

from mmard.study.jobs import Job

TICK = 0.1
"""Seconds between two polls."""


class Backend(Protocol):
    """A place where jobs run: processes of this machine, or of many."""

    def room(self) -> bool:
        """Tell whether another job can start now."""
        ...

    def start(self, job: Job) -> None:
        """Start a job and come back at once."""
        ...

    def ended(self) -> list[tuple[Job, str | None]]:
        """List the jobs that have ended since the last call, with their error, None where all is well."""
        ...

    def stop(self) -> None:
        """Stop the running jobs."""
        ...


class Listener:
    """A listener to the events of a study; this one does nothing."""

    def started(self, job: Job) -> None:
        """Hear that a job runs."""

    def ended(self, job: Job, error: str | None) -> None:
        """Hear that a job is over; ``error`` is one line, None where all is well."""

    def polled(self) -> None:
        """Hear that time has passed."""


def run_all(jobs: Sequence[Job], backend: Backend, listener: Listener) -> dict[str, str]:
    """Run all the jobs, in their order as far as there is room; returns name → error of those that failed."""
    waiting, running = list(jobs), 0
    failed: dict[str, str] = {}
    unfinished = {job.name for job in jobs}

    def finish(job: Job, error: str | None) -> None:
        unfinished.discard(job.name)
        if error is not None:
            failed[job.name] = error
        listener.ended(job, error)

    try:
        while waiting or running:
            for job in [j for j in waiting if j.needs in failed]:
                waiting.remove(job)
                finish(job, f"{job.needs} failed")
            for job in [j for j in waiting if j.needs not in unfinished]:
                if not backend.room():
                    break
                waiting.remove(job)
                backend.start(job)
                running += 1
                listener.started(job)
            for job, error in backend.ended():
                running -= 1
                finish(job, error)
            listener.polled()
            time.sleep(TICK)
    finally:
        backend.stop()
    return failed
