"""Seconds of training until an accuracy under attack: each method by its own run, judged after each epoch on held-out images."""

import math
import re
import shlex
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mmard.api.build import Resolved, data_of, resolve
from mmard.api.images_of_runs import must_fit_images
from mmard.api.measure import processor
from mmard.api.overrides import parse_overrides
from mmard.api.registry import label_of
from mmard.api.settings import Settings, read_settings
from mmard.api.train import Watch, fingerprint, train_resolved
from mmard.evaluation.scores import CLEAN, Scores
from mmard.utils.errors import MmardError
from mmard.utils.files import read_json, write_json

ATTACK = "AutoAttack-quick"
CIFAR10, DIGITS = "cifar10-student", "digits-rslad"
"""Recipes where none is given: the second one where the data of the first are not there."""
RECORD = "to_accuracy.json"
"""File of a run's folder with its figures: what is there is not measured again."""
SET_HERE = {
    "seed": "say --seeds 3",
    "out": "say --out FOLDER",
    "method": "say --method NAME",
    "validation.attack": "it is AutoAttack-quick",
    "validation.steps": "they are of a PGD, and the attack is AutoAttack-quick",
    "validation.target": "it is that of --to-accuracy",
}
"""Settings that the benchmark makes, and how to change them."""
Judge = Callable[[Path], Scores]
"""Attacks weights on the test images by AutoAttack-quick."""


@dataclass(frozen=True)
class Entry:
    """A method of the benchmark.

    Attributes:
        label: as the user wrote it.
        runs: one for each seed.
    """

    label: str
    runs: tuple[Resolved, ...]


def usual_recipe() -> tuple[str, str]:
    """Choose the recipe where none is given; also return a line that says so."""
    data = read_settings(CIFAR10).data
    missing = [str(file) for file in (data.train, data.test) if not Path(str(file)).is_file()]
    if not missing:
        return CIFAR10, f"recipe {CIFAR10}: CIFAR-10 (JPEG)"
    return DIGITS, f"recipe {DIGITS}, on the embedded digits: recipe {CIFAR10} wants {' and '.join(missing)}"


def entries_of(
    recipe: str,
    methods: Sequence[str],
    words: Mapping[str, Any],
    *,
    accuracy: float,
    seeds: int,
    out: Path,
    trust: bool,
) -> list[Entry]:
    """Resolve all the runs of a benchmark, before the first one is trained.

    Args:
        methods: each a method, perhaps with settings of its own behind it: ``"rslad attack.kind=n-fgsm"``; none: the recipe's.
        words: settings of all the methods.
        accuracy: under AutoAttack-quick, in percent, at which a run ends.

    Raises:
        MmardError: for whatever is wrong in one of them.
    """
    if not 0 < accuracy <= 100:
        raise MmardError(f"--to-accuracy is {accuracy:g}, expected percent of the images, above 0 and at most 100")
    if not all(text.strip() for text in methods):
        raise MmardError("--method is empty; expected a method, such as rslad, or no --method for the recipe's")
    found = []
    for text in methods or [""]:
        base = _settings_of(recipe, text, words, accuracy, trust)
        label = text or label_of(base.method)
        place = out / f"{_folder_of(label)}-{fingerprint(base, 'seed')}"
        seeded = ({"seed": seed, "out": str(place / f"seed-{seed}")} for seed in range(seeds))
        found.append(Entry(label, tuple(resolve(read_settings(base, one, own=False)) for one in seeded)))
    places = [entry.runs[0].settings.out for entry in found]
    if twice := [entry.label for entry, place in zip(found, places, strict=True) if places.count(place) > 1]:
        raise MmardError(f"--method {twice[0]!r} is given twice; once is enough")
    must_fit_images(*(entry.runs[0] for entry in found))
    return found


def _settings_of(recipe: str, text: str, words: Mapping[str, Any], accuracy: float, trust: bool) -> Settings:
    method, own = with_settings(text)
    for key in (*words, *own):
        name = next((name for name in SET_HERE if key == name or key.startswith(f"{name}.")), None)
        if name is not None:
            raise MmardError(f"{key} is not a setting of this benchmark; {SET_HERE[name]}")
    shared = read_settings(
        recipe, {"validation.every": 1, **words} | ({"method": method} if method else {}), trust=trust
    )
    judged = {"validation.attack": ATTACK.lower(), "validation.target": accuracy}
    settings = read_settings(shared, own | judged, trust=trust)
    if settings.engine.devices * settings.engine.nodes > 1:
        raise MmardError("a time to an accuracy is that of one process; leave out engine.devices and engine.nodes")
    return settings


def with_settings(text: str) -> tuple[str, dict[str, Any]]:
    """Split a method from settings of its own behind it.

    >>> with_settings("mmard(rslad, beta=2) attack.kind=n-fgsm")
    ('mmard(rslad, beta=2)', {'attack.kind': 'n-fgsm'})
    """
    depth = 0
    for i, letter in enumerate(text):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == " " and depth == 0:
            try:
                return text[:i], parse_overrides(shlex.split(text[i:]))
            except ValueError as e:
                raise MmardError(
                    f"--method {text!r}: {e}; expected a method and settings, 'rslad train.lr=0.05'"
                ) from e
    return text, {}


def _folder_of(label: str) -> str:
    return re.sub(r"[^\w.+=-]+", "-", label).strip("-")[:60]


def run_to_accuracy(resolved: Resolved, watch: Watch, judge: Judge) -> dict[str, Any]:
    """Train one run until it reaches its target or its epochs are over; returns its figures.

    A run that was stopped goes on; of one that is done the figures are read from its folder.
    """
    folder = train_resolved(resolved, resume=True, watch=watch)
    file = folder.path / RECORD
    if not file.is_file():
        scores = judge(folder.last_file)
        tested = {
            "test": 100 * scores.accuracy(ATTACK),
            "test_clean": 100 * scores.accuracy(CLEAN),
            "test_images": len(scores.index),
        }
        settings = resolved.settings
        write_json(file, figures_of(folder.metrics(), settings) | tested | machine_of(settings))
    return read_json(file)


def figures_of(metrics: Sequence[Mapping[str, Any]], settings: Settings) -> dict[str, Any]:
    """Sum up the lines of a run's metrics: seconds of training steps alone, of all that were kept.

    The time of an epoch is its images over its images per second: an epoch that a stop cut in two has been timed in its second part
    alone. What is prepared before the first (`data.variants`) counts once, though a run that goes on prepares it again. The whole
    schedule's time, where the run ended before, is what the other epochs would take at the pace of the middle one.
    """
    last, batch = metrics[-1], settings.train.batch_size
    per_epoch = last["step"] // last["epoch"]
    of_each = [per_epoch * batch / record["images_per_second"] for record in metrics]
    seconds = sum(of_each) + max(record.get("prepared_seconds", 0.0) for record in metrics)
    return {
        "seed": settings.seed,
        "reached": settings.validation.is_reached(last["robust"]),
        "seconds": seconds,
        "epochs": last["epoch"],
        "steps": last["step"],
        "images_per_second": last["step"] * batch / sum(of_each),
        "schedule_seconds": seconds + (settings.train.epochs - last["epoch"]) * statistics.median(of_each),
        "held_out": last["robust"],
        "held_out_clean": last["clean"],
        "precision": last["precision"],
    }


def machine_of(settings: Settings) -> dict[str, Any]:
    """Describe where the run was trained."""
    cuda = settings.engine.accelerator in ("auto", "cuda") and torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if cuda else processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def summed_up(entries: Sequence[Entry], figures: Sequence[Sequence[Mapping[str, Any]]], recipe: str) -> dict[str, Any]:
    """Put the figures of all the runs together: the record of the benchmark."""
    settings = entries[0].runs[0].settings
    data = data_of(settings, given=entries[0].runs[0].images)
    shared = {
        "accuracy": settings.validation.target, "attack": ATTACK, "recipe": recipe, "data": settings.data.name,
        "threat": str(entries[0].runs[0].threat), "images": {"train": len(data.train), "held_out": len(data.held_out)},
    }  # fmt: skip
    methods = {}
    for entry, runs in zip(entries, figures, strict=True):
        own = entry.runs[0].settings
        methods[entry.label] = {
            "formula": str(entry.runs[0].method), "student": own.student, "teacher": own.teacher,
            "planned_epochs": own.train.epochs, "batch_size": own.train.batch_size,
            "seconds": spread([run["seconds"] if run["reached"] else math.inf for run in runs]),
            "runs": list(runs),
        }  # fmt: skip
    return {**shared, "methods": methods}


def spread(seconds: Sequence[float]) -> dict[str, float | None]:
    """Return the median, the least and the most; None for one that is not finite, because the accuracy was not reached.

    >>> spread([3.0, 1.0, math.inf])
    {'median': 3.0, 'low': 1.0, 'high': None}
    """
    ends = {"median": statistics.median(seconds), "low": min(seconds), "high": max(seconds)}
    return {name: value if math.isfinite(value) else None for name, value in ends.items()}
