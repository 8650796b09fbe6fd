"""Backend of a Ray cluster: jobs as tasks on one machine or many, on a disk that all of them see."""

import os
import socket
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from mmard.study.jobs import Job
from mmard.study.worker import as_dict, log_file, run_job
from mmard.utils.errors import MmardError, first_line
from mmard.utils.packages import optional
from mmard.utils.safe_open import open_to_append

RETRIES = 5
"""Number of times that a job may lose its worker before it counts as failed."""


def on_worker(job: dict[str, Any], folder: str) -> str | None:
    """Run a job in this worker's process, from the folder in which the study was started."""
    try:
        os.chdir(folder)
    except OSError as e:
        return f"{os.uname().nodename} does not see {folder} ({first_line(e)}); a study needs a disk that all machines share"
    log = log_file(job["settings"]["out"])
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with open_to_append(log) as file, redirect_stdout(file), redirect_stderr(file):
            error = run_job(job)
            if error is not None:
                print(f"error: {error}")
            return error
    except (OSError, MmardError) as e:
        return f"cannot write {log}: {first_line(e)}"


class RayBackend:
    """A `Backend` on the Ray cluster that is running.

    Args:
        jobs: at most so many at once; None: as many as the cluster has GPUs, or else room for ``threads`` cores each.
        threads: CPU cores of each; None: one.

    Raises:
        MmardError: when Ray is not installed, or no cluster is there.
    """

    def __init__(self, jobs: int | None = None, threads: int | None = None) -> None:
        ray = optional("ray", "ray", "--engine ray")
        try:
            _must_answer(os.environ.get("RAY_ADDRESS", ""))
            ray.init(address="auto", log_to_driver=False, logging_level="ERROR", configure_logging=False)
        except (OSError, RuntimeError, ValueError) as e:
            raise MmardError(
                f"no Ray cluster to join ({first_line(e)}); start one: ray start --head, and on the other machines "
                "ray start --address=HEAD:6379"
            ) from e
        self.ray: Any = ray
        self.jobs, self.threads = jobs, threads or 1
        self.running: dict[Any, Job] = {}

    def _gpus(self) -> int:
        return int(self.ray.cluster_resources().get("GPU", 0))

    def room(self) -> bool:
        """Tell whether another job can start; a cluster may grow or shrink, so it is asked each time."""
        have = self._gpus() or int(self.ray.cluster_resources().get("CPU", 0)) // self.threads
        return len(self.running) < (self.jobs or max(1, have))

    def start(self, job: Job) -> None:
        # a fresh process for each: no memory left over, and as many threads as requested
        task = self.ray.remote(max_calls=1)(on_worker).options(
            num_cpus=self.threads,
            num_gpus=1 if self._gpus() else 0,
            max_retries=RETRIES,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(self.threads)}},
            name=job.name,
        )
        self.running[task.remote(as_dict(job), str(Path.cwd()))] = job

    def ended(self) -> list[tuple[Job, str | None]]:
        over, _ = self.ray.wait(list(self.running), timeout=0) if self.running else ([], [])
        return [(self.running.pop(ref), self._result(ref)) for ref in over]

    def _result(self, ref: Any) -> str | None:
        try:
            return self.ray.get(ref)  # type: ignore[no-any-return]
        except Exception as e:  # Ray has a dozen kinds; each means that the worker was lost too often
            return f"lost its worker {RETRIES + 1} times or could not start: {type(e).__name__}: {first_line(e)}"

    def stop(self) -> None:
        for ref in self.running:
            with suppress(Exception):  # one that has ended meanwhile
                self.ray.cancel(ref, force=True)
        self.running.clear()
        self.ray.shutdown()


def _must_answer(address: str) -> None:
    """Raise an error at once if nothing listens at the address; Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and "://" not in address:
        socket.create_connection((host, int(port)), timeout=10).close()
