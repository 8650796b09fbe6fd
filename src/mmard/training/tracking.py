"""Trackers: MLflow and Weights & Biases hear a run's settings, epochs and evaluations; one that fails never stops training."""

import importlib.util
import os
import re
import uuid
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from mmard.runs.folder import RunFolder, title_of
from mmard.training.callbacks import Watcher
from mmard.utils.errors import MmardError, first_line
from mmard.utils.files import read_json, write_json
from mmard.utils.numbers import is_number
from mmard.utils.portable_paths import portable
from mmard.utils.trust import Trust

FILE = "tracking.json"
PROJECT = "mmard"


class Tracker(Protocol):
    """A client of a tracking service, for one run."""

    def open(self, run: str | None, name: str, folder: Path) -> str:
        """Begin a run of this ``name``, or go on with the run of that id; returns its id."""

    def settings(self, values: Mapping[str, Any]) -> None:
        """Record settings by dotted key."""

    def log(self, values: Mapping[str, float], step: int | None) -> None:
        """Record numbers by name, of a step, or of the whole run (None)."""

    def close(self, done: bool) -> None:
        """End the session; ``done`` tells whether the run is over."""


class Mlflow:
    """A client of MLflow: where ``MLFLOW_TRACKING_URI`` says, in the experiment ``MLFLOW_EXPERIMENT_NAME`` or ``mmard``."""

    def open(self, run: str | None, name: str, folder: Path) -> str:
        for key, value in (("MAX_RETRIES", "2"), ("TIMEOUT", "20")):  # its own would hold up training for many minutes
            os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{key}", value)
        from mlflow import MlflowClient

        self.client = MlflowClient()
        if run is None:
            title = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            known = self.client.get_experiment_by_name(title)
            experiment = known.experiment_id if known else self.client.create_experiment(title)
            run = str(self.client.create_run(experiment, run_name=name).info.run_id)
        else:
            self.client.update_run(run, status="RUNNING")
        self.run = run
        return run

    def settings(self, values: Mapping[str, Any]) -> None:
        kept = self.client.get_run(self.run).data.params
        for key, value in values.items():
            text = str(value)[:500] or "''"
            if key not in kept:
                self.client.log_param(self.run, key, text)
            elif kept[key] != text:  # a parameter stays what it was: an extension's is a tag
                self.client.set_tag(self.run, f"now.{key}", text)

    def log(self, values: Mapping[str, float], step: int | None) -> None:
        for name, value in values.items():
            self.client.log_metric(self.run, re.sub(r"[^\w\-./ ]", "_", name), value, step=step)

    def close(self, done: bool) -> None:
        self.client.set_terminated(self.run, "FINISHED" if done else "KILLED")


class Wandb:
    """A client of Weights & Biases: project ``WANDB_PROJECT`` or ``mmard``; ``WANDB_MODE=offline`` keeps all in the run folder."""

    def open(self, run: str | None, name: str, folder: Path) -> str:
        import wandb

        quiet = wandb.Settings(
            silent=True, console="off", disable_git=True, disable_code=True, x_disable_meta=True, init_timeout=60
        )  # metadata would be the machine's name, folders and command line
        if os.environ.get("WANDB_MODE", "online") == "online":
            with suppress(TypeError):  # of versions that do not know the word
                if not wandb.login(prompt=False):  # nobody sits there to answer
                    raise MmardError(
                        "there is no key for Weights & Biases; run: wandb login, or set WANDB_MODE=offline"
                    )
        run = run or uuid.uuid4().hex[:8]
        project = os.environ.get("WANDB_PROJECT", PROJECT)
        self.run = wandb.init(
            project=project, id=run, name=name, resume="allow", dir=str(folder), settings=quiet, reinit="create_new"
        )
        return run

    def settings(self, values: Mapping[str, Any]) -> None:
        self.run.config.update(dict(values), allow_val_change=True)

    def log(self, values: Mapping[str, float], step: int | None) -> None:
        if step is None:
            self.run.summary.update(dict(values))
        else:
            self.run.log(dict(values), step=step)

    def close(self, done: bool) -> None:
        self.run.finish(exit_code=0 if done else 1)


TRACKERS: dict[str, Callable[[], Tracker]] = {"mlflow": Mlflow, "wandb": Wandb}


class Tracking(Watcher):
    """A watcher that hands settings and epochs to a tracker, and leaves it alone after its first failure, with one warning.

    Args:
        name: one of `TRACKERS`.
        folder: of the run, which keeps the tracker's id of it, so that a resumed run goes on as the same.
        settings: resolved; no folder of this machine is sent.
    """

    def __init__(self, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
        self.name, self.folder, self.sent = name, folder, dotted(portable(dict(settings)))
        self.tracker: Tracker | None = None
        self.total = self.done = 0

    def begin(self, total: int, done: int) -> None:
        self.total, self.done = total, done
        self._try(self._begin)

    def _begin(self) -> None:
        tracker, kept = TRACKERS[self.name](), ids_in(self.folder)
        run = tracker.open(kept.get(self.name), title_of(self.folder), self.folder)
        self.tracker = tracker
        write_json(self.folder / FILE, kept | {self.name: run})
        Trust().must_allow_place(f"{self.name}://{run}", "tracking")  # an evaluation of this user may add to it
        tracker.settings(self.sent)

    def stepped(self, step: int, images: int) -> None:
        self.done = step

    def epoch_ended(self, record: dict[str, Any]) -> None:
        if tracker := self.tracker:
            self._try(lambda: tracker.log(numbers_in(record), int(record["step"])))

    def end(self) -> None:
        if tracker := self.tracker:
            ended = self.done >= self.total or RunFolder(self.folder).is_finished()  # as it does early, too
            self._try(lambda: tracker.close(ended))

    def _try(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as e:  # whatever a client or its server may raise
            self.tracker = None
            warnings.warn(f"{self.name} is left out from here on, training goes on: {first_line(e)}", stacklevel=2)


def log_evaluation(folder: Path, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add an evaluation's accuracies (percent, ``eval/NAME/ATTACK``) to what trackers know of the run in ``folder``.

    Only to runs that this user has begun: a folder of somebody else's names none. A tracker that fails is a warning.
    """
    for tracker_name, run in ids_in(folder).items():
        try:
            Trust(folder=folder).must_allow_place(f"{tracker_name}://{run}", "tracking")
        except MmardError:
            continue
        if tracker_name not in TRACKERS or not is_installed(tracker_name):
            continue
        try:
            tracker = TRACKERS[tracker_name]()
            tracker.open(run, title_of(folder), folder)
            tracker.log({f"eval/{name}/{row['attack']}": float(row["accuracy"]) for row in rows}, None)
            tracker.close(done=RunFolder(folder).is_finished())
        except Exception as e:  # as above
            warnings.warn(f"{tracker_name} has not heard of this evaluation: {first_line(e)}", stacklevel=2)


def ids_in(folder: Path) -> dict[str, str]:
    """Read the trackers' ids of the run in a folder; none where there are none, or the file is damaged."""
    with suppress(MmardError):
        found = read_json(folder / FILE) if (folder / FILE).is_file() else {}
        return {key: value for key, value in found.items() if isinstance(value, str)}
    return {}


def is_installed(name: str) -> bool:
    """Tell whether a tracker's package is there."""
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # it is hidden
        return False


def must_be_installed(names: Iterable[str]) -> None:
    """Raise MmardError unless the packages of these trackers are there."""
    for name in names:
        if name in TRACKERS and not is_installed(name):
            raise MmardError(f"tracking=[{name}] needs one more package: pip install 'mmard[{name}]'")


def dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= dotted(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat


def numbers_in(record: Mapping[str, Any]) -> dict[str, float]:
    """Pick the numbers of a line of the metrics, by name: ``loss``, ``terms/...``."""
    parts = {
        f"{name}/{k}" if k else name: v
        for name, value in record.items()
        for k, v in (value.items() if isinstance(value, dict) else [("", value)])
    }
    return {name: float(value) for name, value in parts.items() if is_number(value)}
