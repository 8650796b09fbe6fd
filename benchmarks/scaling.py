"""How a step's time and memory grow with batch, image size, classes, teacher and processes, and the lines through them.

    python benchmarks/scaling.py --json docs/results/scaling.json

Every case is a step of RSLAD in our machinery, in one process with one thread, taken in turn with the others; the figure is
the median. `--processes` trains on so many processes of one thread each and reads their images per second.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmard.api.settings import read_settings
from mmard.bench.measure import forward_flops, paired_seconds
from mmard.bench.step import Case, Subject, memory_of
from mmard.training.engine import Engine
from mmard.utils.files import write_json

STUDENT_PASSES = 10 * 2 + 2 + 4  # ten steps forward and back, two outer forwards, their backwards to input and weights
USUAL: dict[str, Any] = {"teacher": "wrn-16-2", "batch": 8, "size": 32, "classes": 10}
AXES: dict[str, list[Any]] = {
    "batch": [4, 16, 32],
    "size": [16, 48, 64],
    "classes": [100, 1000],
    "teacher": ["wrn-10-1", "wrn-16-4", "wrn-28-4"],
}


def cases() -> list[dict[str, Any]]:
    """The usual case, and one change at a time."""
    return [USUAL, *({**USUAL, axis: value} for axis, values in AXES.items() for value in values)]


def measure(student: str, method: str, repeats: int) -> list[dict[str, Any]]:
    """A row a case: seconds of a step, GFLOP counted, memory."""
    settings = read_settings(None, {"method": method, "student": student})
    engine, rows, steps = Engine(accelerator="cpu"), [], {}
    for i, changes in enumerate(cases()):
        case = Case(settings=settings, **changes)
        x = torch.rand(case.batch, 3, case.size, case.size)
        subject = Subject.of(case, engine, x, torch.arange(case.batch) % case.classes)
        flop = STUDENT_PASSES * forward_flops(subject.plain["student"], x) + forward_flops(subject.plain["teacher"], x)
        memory = memory_of(subject.update, x.shape[1:])
        rows.append({**changes, "gflop": flop / 1e9, **memory})
        steps[str(i)] = subject.steps["ours"]
    seconds = paired_seconds(steps, engine.device, repeats)
    for i, row in enumerate(rows):
        row["seconds"] = statistics.median(seconds[str(i)])
    return rows


def line(rows: list[dict[str, Any]]) -> dict[str, float]:
    """seconds = overhead + GFLOP / rate, least squares of the relative error; and the worst relative error."""
    work, seconds = (np.array([row[key] for row in rows]) for key in ("gflop", "seconds"))
    terms = np.stack([np.ones_like(work), work], 1) / seconds[:, None]
    (overhead, slope), *_ = np.linalg.lstsq(terms, np.ones_like(work), rcond=None)
    error = np.abs((overhead + slope * work) / seconds - 1)
    return {
        "overhead_ms": 1e3 * overhead,
        "gflops": 1 / slope,
        "worst_error": error.max(),
        "median_error": np.median(error),
    }


def processes(count: int, student: str) -> float:
    """Images per second of so many processes of one thread each, with 64 images each, in the second epoch."""
    with tempfile.TemporaryDirectory() as folder:
        words = [
            "train",
            "--method",
            "pgd_at",
            f"student={student}",
            "train.epochs=2",
            f"train.batch_size={64 * count}",
        ]
        words += [f"engine.devices={count}", "engine.accelerator=cpu", "validation.every=2", f"out={folder}/run"]
        subprocess.run(
            [sys.executable, "-m", "mmard", *words],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=True,
            capture_output=True,
        )
        last = Path(folder, "run", "metrics.jsonl").read_text().splitlines()[-1]
        return float(json.loads(last)["images_per_second"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", default="resnet18")
    parser.add_argument("--method", default="rslad")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    shared = {str(count): processes(count, "cnn-32-3") for count in asked.processes}
    rows = measure(asked.student, asked.method, asked.repeats)
    found = {"student": asked.student, "method": asked.method, "rows": rows, "line": line(rows), "processes": shared}
    for row in rows:
        print(
            "  ".join(
                f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
            )
        )
    print(found["line"], "images/s by processes:", shared)
    if asked.json:
        write_json(asked.json, found)


if __name__ == "__main__":
    main()
