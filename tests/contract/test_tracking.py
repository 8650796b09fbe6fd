"""Trackers: they hear settings, epochs and evaluations, a resumed run is the same one there, and none of them stops a training."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from helpers import QUICK, Run

import mmard
from mmard import MmardError
from mmard.api.overrides import parse_overrides
from mmard.api.settings import read_settings
from mmard.training import tracking
from mmard.training.callbacks import Watcher

SETTINGS = {key.replace(".", "__"): value for key, value in parse_overrides(QUICK).items()} | {"method": "pgd_at"}


class Fake:
    """A tracker that writes down what it hears, and fails where a test wants it to."""

    heard: list[tuple[str, Any]]
    fails = ""

    def _hear(self, what: str, value: Any) -> None:
        if what == self.fails:
            raise ConnectionError("nobody is there\nand that in two lines")
        self.heard.append((what, value))

    def open(self, run: str | None, name: str, folder: Path) -> str:
        self._hear("open", (run, name))
        return run or "an-id"

    def settings(self, values: Mapping[str, Any]) -> None:
        self._hear("settings", dict(values))

    def log(self, values: Mapping[str, float], step: int | None) -> None:
        self._hear("log", (step, dict(values)))

    def close(self, done: bool) -> None:
        self._hear("close", done)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[Fake]:
    """A tracker of its own for each test, in MLflow's place."""
    kind = type("OwnFake", (Fake,), {"heard": []})
    monkeypatch.setitem(tracking.TRACKERS, "mlflow", kind)
    monkeypatch.setattr(tracking, "is_installed", lambda _: True)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return kind


class Killed(Watcher):
    """Stops a run in its second epoch."""

    def stepped(self, step: int, images: int) -> None:
        if step == 8:
            raise KeyboardInterrupt


def test_a_resumed_run_is_the_same_there_and_its_evaluation_is_added(fake: type[Fake], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        mmard.train(out=str(tmp_path / "a"), tracking=["mlflow"], watch=lambda _: Killed(), **SETTINGS)
    run = mmard.train(out=str(tmp_path / "a"), tracking=["mlflow"], resume=True, **SETTINGS)
    mmard.evaluate(run, "fgsm", limit=20, examples=0)
    kinds = [kind for kind, _ in fake.heard]
    training = ["open", "settings", "log", "close"]
    assert kinds == [*training, *training, "open", "log", "close"]
    assert [value for kind, value in fake.heard if kind == "open"] == [(None, "a"), ("an-id", "a"), ("an-id", "a")]
    assert [value for kind, value in fake.heard if kind == "close"] == [False, True, True]
    told = next(value for kind, value in fake.heard if kind == "settings")
    assert (told["train.epochs"], told["threat.eps"], told["out"]) == (2, 0.1, "a")  # no folder of this machine
    (first, epoch), (second, _), (at, figures) = [value for kind, value in fake.heard if kind == "log"]
    assert (first, second, at) == (5, 10, None)
    assert {"loss", "lr", "clean", "robust", "terms/hard_adv"} <= epoch.keys()
    assert figures["eval/best_FGSM_20-images/FGSM"] == pytest.approx(
        next(
            row["accuracy"] for row in json.loads(next(run.path.glob("eval/*/scores.json")).read_text())["attacks"][1:]
        )
    )


def test_a_run_that_ends_early_is_done_and_the_evaluation_of_one_that_was_killed_does_not_end_it(
    fake: type[Fake], tmp_path: Path
) -> None:
    """By patience it was said to be killed; a killed one was said to be finished once it was judged."""
    early = {**SETTINGS, "train__epochs": 9, "train__lr": 1e-9, "validation__patience": 1}
    assert len(mmard.train(out=str(tmp_path / "a"), tracking=["mlflow"], **early).metrics()) < 9
    with pytest.raises(KeyboardInterrupt):
        mmard.train(out=str(tmp_path / "b"), tracking=["mlflow"], watch=lambda _: Killed(), **SETTINGS)
    mmard.evaluate(tmp_path / "b", "none", limit=20, examples=0)
    assert [value for kind, value in fake.heard if kind == "close"] == [True, False, False]


@pytest.mark.parametrize("what", ["open", "settings", "log", "close"])
def test_a_tracker_that_fails_is_one_warning_and_the_run_is_the_same(
    what: str, fake: type[Fake], tmp_path: Path
) -> None:
    fake.fails = what
    with pytest.warns(UserWarning, match="mlflow is left out from here on, training goes on: nobody is there$") as told:
        run = mmard.train(out=str(tmp_path / "a"), tracking="mlflow", **SETTINGS)
    assert len([w for w in told if "mlflow" in str(w.message)]) == 1
    assert len(run.metrics()) == 2
    assert run.last_file.is_file()


def test_somebody_elses_run_folder_adds_nothing_to_ones_own_runs(
    fake: type[Fake], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = mmard.train(out=str(tmp_path / "a"), tracking=["mlflow"], **SETTINGS)
    (run.path / "tracking.json").write_text('{"mlflow": "of-nobody", "wandb": 3, "os": "x"}')
    fake.heard.clear()
    mmard.evaluate(run, "none", limit=20, examples=0)
    assert fake.heard == []


def test_words_for_trackers(mmard: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for given in ("mlflow,tensorboard", ["mlflow", "tensorboard"], ["mlflow", "mlflow", "tensorboard"]):
        assert read_settings(None, {"tracking": given}).tracking == ["mlflow", "tensorboard"]
    assert read_settings(None, {"tracking": None}).tracking == []
    with pytest.raises(MmardError, match="expected some of tensorboard, mlflow, wandb, got neptune"):
        read_settings(None, {"tracking": ["neptune"]})
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    done = mmard("train", *QUICK, "--method", "pgd_at", "tracking=[wandb]")
    assert done.returncode == 2
    assert "tracking=[wandb] needs one more package: pip install 'mmard[wandb]'" in done.stderr
    assert not Path("runs").exists()


def test_tensorboard_is_a_tracker_too(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run = mmard.train(out=str(tmp_path / "a"), tracking=["tensorboard"], **SETTINGS)
    assert list(run.path.glob("tensorboard/events*"))


@pytest.mark.extra
def test_mlflow_in_its_file_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    settings = {**SETTINGS, "out": str(tmp_path / "a"), "tracking": ["mlflow"]}
    run = mmard.train(**settings)
    mmard.train(**{**settings, "train__epochs": 3}, resume=True, extend=True)
    mmard.evaluate(run, "fgsm", limit=20, examples=0)
    from mlflow import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name("mmard")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.status, found.info.run_name) == ("FINISHED", "a")
    assert (found.data.params["train.epochs"], found.data.tags["now.train.epochs"]) == ("2", "3")
    assert [m.step for m in client.get_metric_history(found.info.run_id, "robust")] == [5, 10, 15]
    assert "eval/best_FGSM_20-images/FGSM" in found.data.metrics
    kept = b"".join(
        p.read_bytes() for kind in ("params", "metrics") for p in tmp_path.glob(f"store/*/*/{kind}/**/*") if p.is_file()
    )
    assert os.fsencode(tmp_path) not in kept


@pytest.mark.extra
def test_wandb_offline_goes_on_with_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    settings = {**SETTINGS, "out": str(tmp_path / "a"), "tracking": ["wandb"]}
    run = mmard.train(**settings)
    mmard.evaluate(run, "fgsm", limit=20, examples=0)
    name = json.loads((run.path / "tracking.json").read_text())["wandb"]
    files = sorted(run.path.glob(f"wandb/offline-run-*/run-{name}.wandb"))
    assert len(files) == 2  # a session each: training, evaluation
    training, evaluation = (file.read_bytes() for file in files)
    assert b"train.epochs" in training
    assert b"terms/hard_adv" in training
    assert b"eval/best_FGSM_20-images/FGSM" in evaluation
    assert os.fsencode(tmp_path) not in training + evaluation
