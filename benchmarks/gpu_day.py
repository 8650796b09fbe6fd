"""What to run first with an hour of GPU: robust CIFAR-10 teachers and students, in the order of their value.

    python benchmarks/gpu_day.py --minutes 50 --data ../shared/data

Each job is an ordinary run folder under --out. Stopped by the clock, a kill or a fault, the script goes on where it was when
it is started again. After each job its best weights (half precision, with a card) and its metrics are put into --out/pack/.
`--tiny` does the same on the embedded digits in a minute, to see that the machinery works.
"""

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

from mmard import MmardError, train
from mmard.api.settings import Settings
from mmard.models.weights import load_weights, metadata_of, save_weights
from mmard.runs.folder import RunFolder
from mmard.training.callbacks import Watcher
from mmard.utils.files import sha256, write_json
from mmard.utils.validation import validated

SCHEDULE = {
    "batch_size": 256,
    "lr": 0.2,
    "weight_decay": 5e-4,
    "nesterov": True,
    "schedule": "one_cycle",
    "warmup": 0.3,
}
COMMON = {
    "normalize": "data", "threat": {"eps": "8/255"}, "averaging": {"kind": "ema", "decay": 0.995},
    "validation": {"every": 5}, "engine": {"precision": "bf16-mixed"}, "checkpoint_every": 50,
}  # fmt: skip

# A teacher first: without one nothing else runs. Then the pair that is compared most, then what widens the comparison.
JOBS: list[tuple[str, dict[str, Any]]] = [
    ("teacher-trades", {"method": "trades", "student": "wrn-28-4", "epochs": 30}),
    ("resnet18-rslad", {"method": "rslad", "student": "resnet18", "teacher": "teacher-trades", "epochs": 30}),
    ("resnet18-mmard", {"method": "mmard", "student": "resnet18", "teacher": "teacher-trades", "epochs": 30}),
    ("resnet18-pgd_at", {"method": "pgd_at", "student": "resnet18", "epochs": 30}),
    ("resnet18-adaad", {"method": "adaad", "student": "resnet18", "teacher": "teacher-trades", "epochs": 30}),
    ("teacher-pgd_at", {"method": "pgd_at", "student": "wrn-28-4", "epochs": 30}),
    ("mobilenetv2-rslad", {"method": "rslad", "student": "mobilenetv2", "teacher": "teacher-trades", "epochs": 30}),
    ("mobilenetv2-mmard", {"method": "mmard", "student": "mobilenetv2", "teacher": "teacher-trades", "epochs": 30}),
]


class OutOfTimeError(Exception):
    """The minutes are over; the last checkpoint stays."""


class Clock(Watcher):
    """Says a line an epoch and stops the run when the time is over."""

    def __init__(self, name: str, until: float) -> None:
        self.name, self.until = name, until

    def stepped(self, step: int, images: int) -> None:
        if time.monotonic() > self.until:
            raise OutOfTimeError

    def epoch_ended(self, record: dict[str, Any]) -> None:
        robust = f", clean {record['clean']:.1f} robust {record['robust']:.1f}" if "robust" in record else ""
        print(f"{self.name}: epoch {record['epoch']}, {record['images_per_second']:.0f} images/s{robust}", flush=True)


def settings_of(name: str, job: dict[str, Any], out: Path, data: Path, tiny: bool) -> dict[str, Any]:
    """The resolved settings of a job."""
    job = dict(job)
    plan = {**SCHEDULE, "epochs": job.pop("epochs")}
    files = {part: str(data / f"cifar10-jpeg-{part}.parquet") for part in ("train", "test")}
    settings = {
        **COMMON,
        **job,
        "train": plan,
        "data": {"name": "parquet", "augment": "crop+flip", **files},
        "out": str(out / name),
    }
    if "teacher" in job:
        settings["teacher"] = str(out / job["teacher"])
    if tiny:
        small = {"student": "cnn-4-3", "data": {"name": "digits", "limit": 300}, "threat": {"eps": 0.1}}
        settings |= {
            **small,
            "train": {**plan, "epochs": 2, "batch_size": 50},
            "attack": {"steps": 2},
            "teacher_check": "none",
        }
    return settings


def pack(folder: RunFolder, to: Path) -> None:
    """Best weights in half precision with a card, and the metrics: small files that travel."""
    to.mkdir(parents=True, exist_ok=True)
    name = folder.path.name
    model, metadata = load_weights(folder.best_file), metadata_of(folder.best_file)
    weights = to / f"{name}.safetensors"
    save_weights(weights, model.half(), metadata)
    a, judged = model.architecture, [r for r in folder.metrics() if "robust" in r]
    best = max(judged, key=lambda r: (r["robust"], r["clean"]))
    card = {"architecture": a.name, "classes": a.classes, "channels": a.channels, "mean": a.mean, "std": a.std}
    card |= {"file": weights.name, "sha256": sha256(weights), "source": "trained by mmard, benchmarks/gpu_day.py"}
    card["claimed"] = {"held-out clean": best["clean"], "held-out PGD-10": best["robust"]}
    shutil.copyfile(folder.metrics_file, to / f"{name}.jsonl")
    write_json(to / f"{name}.json", card)  # last and whole: it says that the job is done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=50)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/day"))
    parser.add_argument("--tiny", action="store_true")
    asked = parser.parse_args()
    end = time.monotonic() + 60 * asked.minutes
    failed = []
    for name, job in JOBS:
        if (asked.out / "pack" / f"{name}.json").exists():
            continue
        settings = settings_of(name, job, asked.out, asked.data, asked.tiny)
        try:
            folder = train(validated(Settings, settings, "setting"), resume=True, watch=lambda _, n=name: Clock(n, end))
            pack(folder, asked.out / "pack")
        except OutOfTimeError:
            print(f"{name}: out of time; the same command goes on")
            return
        except MmardError as e:
            failed.append(name)
            print(f"{name}: failed, {e}")
    print(f"done; small files in {asked.out / 'pack'}")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
