"""A worker process for one job: training, then evaluation. ``python -m mmard.study.worker`` reads the job from its input."""

import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from mmard.api.build import may_be_read
from mmard.api.evaluate import evaluate_run
from mmard.api.settings import Settings
from mmard.api.train import train
from mmard.runs.folder import RunFolder
from mmard.study.jobs import Job, is_done, weights_of
from mmard.study.spec import Evaluation
from mmard.training.callbacks import Watcher
from mmard.utils.errors import MmardError
from mmard.utils.trust import Trust
from mmard.utils.validation import validated

PATIENCE = 30.0
"""Seconds to wait for a run folder whose last process is just being killed."""


class Log(Watcher):
    """A line for each epoch."""

    def told(self, line: str) -> None:
        print(line, flush=True)

    def begin(self, total: int, done: int) -> None:
        print(f"training: step {done} of {total}", flush=True)

    def epoch_ended(self, record: dict[str, Any]) -> None:
        held_out = (
            f", held-out clean {record['clean']:.2f} % robust {record['robust']:.2f} %" if "robust" in record else ""
        )
        print(f"epoch {record['epoch']}: loss {record['loss']:.4f}{held_out}", flush=True)


def as_dict(job: Job) -> dict[str, Any]:
    """Write a job in plain values, to send to another process."""
    evaluation = job.evaluation.model_dump() if job.evaluation else None
    given = job.settings.trust  # once, to the study
    trust = {"everything": given.everything, "own": sorted(given.own)}
    return {"settings": job.settings.resolved(), "evaluation": evaluation, "trust": trust}


def _trust_of(job: dict[str, Any]) -> Trust:
    return Trust().also(job["trust"]["own"], everything=job["trust"]["everything"])


def run_job(job: dict[str, Any]) -> str | None:
    """Run a job of `as_dict`; returns the error as one line, None if all is well. Progress goes to standard output."""
    try:
        settings = validated(Settings, job["settings"], "setting").trusting(_trust_of(job))
        evaluation = validated(Evaluation, job["evaluation"], "evaluate") if job["evaluation"] else None
        folder = RunFolder(settings.out)
        _wait_until_free(folder)
        if evaluation is None or not is_done(folder, evaluation):
            train(settings, resume=True, watch=lambda _: Log())
        if evaluation is not None and not is_done(folder, evaluation):
            print("judging", flush=True)
            may_be_read(settings)  # another machine may have trained it
            asked = {
                **evaluation.model_dump(exclude={"checkpoint"}),
                "engine__accelerator": settings.engine.accelerator,
            }
            scores = evaluate_run(weights_of(folder, evaluation), **asked)
            print("; ".join(f"{row['attack']} {row['accuracy']:.2f} %" for row in scores.rows()), flush=True)
            for check in scores.metadata["checks"]:
                print(f"check {check['name']}, {check['level']}: {check['said']}", flush=True)
    except MmardError as e:
        return str(e)
    except Exception as e:  # of whatever kind: the other cells go on, and the log has the whole of it
        traceback.print_exc()
        return f"{type(e).__name__}: {str(e).strip() or 'no message'}".splitlines()[0]
    return None


def _wait_until_free(folder: RunFolder) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            folder.lock()
        except MmardError as e:
            if isinstance(e.__cause__, BlockingIOError) and time.monotonic() < end:
                time.sleep(0.1)
                continue
            return  # training says it better
        finally:
            folder.close()
        return


def _end_with_the_parent() -> None:
    """End this process when the study is killed: its end of the pipe closes with it, however it ends."""
    sys.stdin.read()
    os._exit(3)


def main() -> None:
    """Run the job that standard input describes."""
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    error = run_job(job)
    if error is not None:
        print(f"error: {error}", flush=True)
    os._exit(1 if error else 0)  # the thread may hold the input's lock, over which an orderly exit would stumble


def log_file(out: str) -> Path:
    """Return the file of a job's output."""
    return Path(out).expanduser() / "log.txt"


if __name__ == "__main__":
    main()
