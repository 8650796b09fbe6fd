"""A checkpoint knows its run: no other goes on from it, an extension says what it changes, a signal loses nothing."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import blobs, small_net
from test_training import Stops, assert_same_runs, same, trainer
from torch import nn

from mmard import MmardError, Threat
from mmard.api.build import resolve
from mmard.api.settings import read_settings
from mmard.attacks.inner.adaptive import WarmStart
from mmard.attacks.inner.switching import CollapseGuard, StepSwitch
from mmard.attacks.pgd import Pgd
from mmard.data.augment import LateAugmentation, kind_at
from mmard.data.images import DataSet, split
from mmard.methods import METHODS
from mmard.models.architectures import adopt
from mmard.runs.folder import RunFolder
from mmard.training.averaging import Averaging
from mmard.training.callbacks import Watcher
from mmard.training.extension import Extension
from mmard.training.schedule import Plan
from mmard.training.trainer import Trainer
from mmard.training.validation import Validation
from mmard.utils.signals import Stopped, end_at_once, on_signals

PLAN = Plan(epochs=3, batch_size=40, lr=0.05)
LATE = StepSwitch(first=Pgd(steps=1), then=Pgd(steps=2), after=0.5)
NO_AVERAGE = Averaging()


def cut(tiny: DataSet, folder: Path, **changes: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        trainer(tiny, folder, watcher=Stops(6), **changes).fit()


def assert_refused(words: dict[str, Any], said: str) -> None:
    """Settings are refused in one line that begins so."""
    with pytest.raises(MmardError) as error:
        resolve(read_settings(None, {"method": "pgd_at", **words}))
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)


# --- augmentation that changes on its way


@pytest.mark.parametrize("after", [0.5, 1.5])
def test_augmentation_changes_at_its_time_and_a_resumed_run_is_bit_equal(
    after: float, tiny: DataSet, tmp_path: Path
) -> None:
    """Steps 6 to 11 of 12, by a share or by epochs, before and after which it is the one kind or the other."""
    late = LateAugmentation(kind="idbh", after=after)
    kinds = [kind_at(step / 12, 3, "crop+flip", late) for step in range(12)]
    assert kinds == ["crop+flip"] * 6 + ["idbh"] * 6
    trainer(tiny, tmp_path / "whole", late_augmentation=late).fit()
    for stop in (5, 7):
        with pytest.raises(KeyboardInterrupt):
            trainer(
                tiny, tmp_path / "cut", late_augmentation=late, watcher=Stops(stop), checkpoint_every=1
            ).fit()  # fmt: skip
    trainer(tiny, tmp_path / "cut", late_augmentation=late).fit()
    assert_same_runs(tmp_path / "whole", tmp_path / "cut")
    trainer(tiny, tmp_path / "plain").fit()
    trainer(tiny, tmp_path / "same", late_augmentation=LateAugmentation(kind="crop+flip", after=after)).fit()
    assert_same_runs(tmp_path / "plain", tmp_path / "same")
    one, other = ([r["loss"] for r in RunFolder(tmp_path / name).metrics()] for name in ("plain", "whole"))
    assert one[0] == other[0]
    assert one[1] != other[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"data.augment_late.kind": "blur"}, "setting 'data.augment_late.kind' is 'blur': expected "),
        ({"data.augment_late.after": 0.5}, "setting 'data.augment_late.kind' is missing"),
        ({"data.augment_late": {"kind": "idbh", "after": 0}}, "setting 'data.augment_late.after' is 0: expected a number above 0"),
        ({"data.augment_late": {"kind": "idbh", "after": 30}}, "data.augment_late begins after 30 epochs, and the run has 30"),
        (
            {"data.augment_late.kind": "idbh", "attack.warm_start": True},
            "attack.warm_start keeps perturbations of the image itself, and data.augment_late.kind=idbh does more than move it",
        ),
    ],
)  # fmt: skip
def test_a_wrong_change_of_augmentation_is_one_line(words: dict[str, Any], said: str) -> None:
    assert_refused(words, said)


# --- the checkpoint of another run


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"seed": 1}, "seed: 0 → 1"),
        ({"method": METHODS["rslad"]()}, "method: "),
        ({"threat": Threat(eps=0.2)}, "threat.eps: 0.1 → 0.2"),
        ({"plan": PLAN.changed(lr=0.1)}, "train.lr: 0.05 → 0.1"),
        ({"plan": PLAN.changed(optimizer="adamw")}, "train.optimizer: sgd → adamw"),
        ({"plan": PLAN.changed(epochs=1)}, "train.epochs: 3 → 1"),
        ({"averaging": NO_AVERAGE}, "averaging.kind: ema → none"),
        ({"augmentation": "none"}, "data.augment: crop+flip → none"),
        ({"late_augmentation": LateAugmentation(kind="idbh")}, "data.augment_late: None → {"),
        ({"student": small_net(name="cnn-4-3")}, "student.name: cnn-4-2 → cnn-4-3"),
        ({"teachers": {"teacher": small_net(seed=7).eval()}}, "teachers.teacher: "),
        ({"train": split("others", blobs(200, seed=5), blobs(80), held_out=0.2, seed=3).train}, "data.labels: "),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_the_checkpoint_of_another_run_is_refused_by_what_differs(
    other: dict[str, Any], named: str, tiny: DataSet, tmp_path: Path
) -> None:
    cut(tiny, tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    run = trainer(
        tiny,
        tmp_path,
        **{"method": None, **{k: v for k, v in other.items() if k not in ("threat", "student", "train")}},
    )
    for name in other.keys() & {"threat", "student", "train"}:
        run = replace_field(run, name, other[name])
    with pytest.raises(MmardError, match=r"checkpoint.pt is of a run with other settings: ") as said:
        run.fit()
    assert named in str(said.value)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("method", "before"),
    [
        (lambda: METHODS["awp"](METHODS["pgd_at"](), begin=0.5), "before they descend"),
        (lambda: METHODS["ard"](attack_in_train_mode=True), "by PGD-10 (step eps/4, start uniform)\n"),
        (lambda: METHODS["rebat"](), "decay 0.999 from 0.525 on"),
        (lambda: METHODS["saad"](script_weights=True), "[w = H(T(x'))]"),
    ],
)
def test_a_run_of_an_earlier_version_goes_on_though_its_formula_said_less(
    method: Any, before: str, tiny: DataSet, tmp_path: Path
) -> None:
    cut(tiny, tmp_path, method=method())
    folder = RunFolder(tmp_path)
    state = folder.load()
    assert state is not None
    text = state["made_with"]["method"]
    for new, old in (
        (" from 0.5 of the run on", ""),
        (", the student in training mode", ""),
        (" from 0.525 of the run on", " from 0.525 on"),
        ("5·(H(T(x')) − min)", "H(T(x'))"),
    ):
        text = text.replace(new, old)
    assert before in f"{text}\n"
    assert text != state["made_with"]["method"]
    folder.save({**state, "made_with": {**state["made_with"], "method": text}})
    trainer(tiny, tmp_path, method=method()).fit()
    assert folder.is_finished()


@pytest.mark.parametrize(
    ("then", "now"),
    [
        (lambda: METHODS["peeraid"](peer_settings={"lr": 0.01}), lambda: METHODS["peeraid"](peer_settings={"lr": 0.1})),
        (lambda: METHODS["rebat"](begin=0.5), lambda: METHODS["rebat"](begin=0.6)),
        (
            lambda: METHODS["awp"](METHODS["pgd_at"](), begin=0.5),
            lambda: METHODS["awp"](METHODS["pgd_at"](), begin=0.6),
        ),
    ],
)
def test_what_formulas_say_since_is_compared_where_both_say_it(
    then: Any, now: Any, tiny: DataSet, tmp_path: Path
) -> None:
    cut(tiny, tmp_path, method=then(), teachers={})
    with pytest.raises(MmardError, match="is of a run with other settings: method"):
        trainer(tiny, tmp_path, method=now(), teachers={}).fit()


def test_a_run_whose_checkpoint_was_removed_begins_anew_and_is_not_at_its_end(tiny: DataSet, tmp_path: Path) -> None:
    trainer(tiny, tmp_path, plan=PLAN.changed(epochs=1)).fit()
    folder = RunFolder(tmp_path)
    folder.keep_history([{"epoch": 1}])
    folder.checkpoint_file.unlink()
    cut(tiny, tmp_path)
    assert not folder.is_finished()
    trainer(tiny, tmp_path).fit()
    assert folder.is_finished()
    assert not folder.history_file.exists()


def test_who_is_refused_a_lock_does_not_remove_the_folder_of_its_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two commands begin at once: both see no folder, and one of them makes and locks it."""
    holder, other = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    mkdir = Path.mkdir

    def overtaken(self: Path, *args: Any, **given: Any) -> None:
        monkeypatch.setattr(Path, "mkdir", mkdir)
        holder.lock()
        mkdir(self, *args, **given)

    monkeypatch.setattr(Path, "mkdir", overtaken)
    with pytest.raises(MmardError, match="is in use by process"):
        other.lock()
    other.close()
    assert (tmp_path / "run/.lock").exists()
    holder.close()


def replace_field(run: Trainer, name: str, value: Any) -> Trainer:
    fields = {key: getattr(run, key) for key in run.__dataclass_fields__}
    return Trainer(**{**fields, name: value})


def test_an_old_checkpoint_that_has_done_more_than_is_asked_for_is_refused(tiny: DataSet, tmp_path: Path) -> None:
    """It does not say what it was made with; yet a run must not end without weights."""
    cut(tiny, tmp_path)
    folder = RunFolder(tmp_path)
    state = folder.load()
    assert state is not None
    folder.save({k: v for k, v in state.items() if k not in ("made_with", "settings")})
    folder.save({**state, "made_with": None, "step": 8})
    with pytest.raises(MmardError, match=r"has done 2 epochs, and train.epochs is 1; expected no fewer"):
        trainer(tiny, tmp_path, plan=PLAN.changed(epochs=1)).fit()


# --- metrics


def test_a_line_that_was_cut_is_said_and_comes_back_from_the_checkpoint(tiny: DataSet, tmp_path: Path) -> None:
    trainer(tiny, tmp_path / "whole").fit()
    with pytest.raises(KeyboardInterrupt):
        trainer(tiny, tmp_path / "cut", watcher=Stops(10)).fit()
    metrics = RunFolder(tmp_path / "cut").metrics_file
    metrics.write_text(metrics.read_text()[:-20])
    with pytest.warns(UserWarning, match=r"metrics.jsonl: its last line is cut short and left out"):
        trainer(tiny, tmp_path / "cut").fit()
    assert_same_runs(tmp_path / "whole", tmp_path / "cut")


def test_every_line_is_on_disk_before_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    RunFolder(tmp_path).append({"step": 1, "epoch": 1})
    assert synced == [(tmp_path / "metrics.jsonl").stat().st_size] != [0]


def test_a_folder_that_vanishes_ends_the_run_in_one_line(tiny: DataSet, tmp_path: Path) -> None:
    class Moves(Watcher):
        def stepped(self, step: int, images: int) -> None:
            if step == 6:
                (tmp_path / "run").rename(tmp_path / "elsewhere")

    with pytest.raises(MmardError, match=r"cannot write .*/run/.*was it moved or removed\?"):
        trainer(tiny, tmp_path / "run", watcher=Moves()).fit()
    assert [p.name for p in tmp_path.iterdir()] == ["elsewhere"]
    trainer(tiny, tmp_path / "whole").fit()
    trainer(tiny, tmp_path / "elsewhere").fit()
    assert_same_runs(tmp_path / "whole", tmp_path / "elsewhere")


# --- extensions


def extension(after: Plan, before: Plan = PLAN, averaging: Averaging = NO_AVERAGE) -> Extension:
    changed = {
        f"train.{key}": (getattr(before, key), getattr(after, key))
        for key in ("epochs", "lr", "schedule", "weight_decay")
        if getattr(before, key) != getattr(after, key)
    }
    return Extension(changed=changed, before=before, averaging=averaging)


CONSTANT = PLAN.changed(schedule="constant")


@pytest.mark.parametrize("end", [6, None])
def test_a_run_at_a_constant_rate_goes_on_as_one_that_was_planned_so(
    end: int | None, tiny: DataSet, tmp_path: Path
) -> None:
    """A run that was cut and one that had ended; `mmard`'s terms do not ask for the progress."""
    longer = CONSTANT.changed(epochs=6)
    trainer(tiny, tmp_path / "whole", plan=longer, averaging=NO_AVERAGE).fit()
    if end is None:
        trainer(tiny, tmp_path / "run", plan=CONSTANT, averaging=NO_AVERAGE).fit()
    else:
        cut(tiny, tmp_path / "run", plan=CONSTANT, averaging=NO_AVERAGE)
    trainer(tiny, tmp_path / "run", plan=longer, averaging=NO_AVERAGE, extension=extension(longer, CONSTANT)).fit()
    assert_same_runs(tmp_path / "whole", tmp_path / "run")
    (entry,) = json.loads((tmp_path / "run/history.json").read_text())
    assert entry["changed"] == {"train.epochs": [3, 6]}
    assert entry["lr"] == [0.05, 0.05]
    assert entry["epoch"] == (1 if end else 3)


def test_a_longer_cosine_follows_the_new_plan_and_says_so(tiny: DataSet, tmp_path: Path) -> None:
    trainer(tiny, tmp_path, averaging=NO_AVERAGE).fit()
    longer, lines = PLAN.changed(epochs=6, weight_decay=0.01), list[str]()

    class Hears(Watcher):
        def told(self, line: str) -> None:
            lines.append(line)

    run = trainer(tiny, tmp_path, plan=longer, averaging=NO_AVERAGE, extension=extension(longer), watcher=Hears())
    run.fit()
    rates = [r["lr"] for r in RunFolder(tmp_path).metrics()]
    assert rates == [PLAN.lr_at(s / 12) for s in (3, 7, 11)] + [longer.lr_at(s / 24) for s in (15, 19, 23)]
    assert run.update.optimizer.param_groups[0]["weight_decay"] == 0.01
    last = f"{PLAN.lr_at(11 / 12):.3g} → {longer.lr_at(0.5):.3g}"
    assert lines == [f"extended at epoch 3: train.epochs 3 → 6, train.weight_decay 0.0002 → 0.01; learning rate {last}"]


def test_an_extension_that_is_killed_goes_on_bit_equal(tiny: DataSet, tmp_path: Path) -> None:
    longer = PLAN.changed(epochs=5, lr=0.02)
    average = Averaging(kind="ema", decay=0.8)
    for name in ("whole", "cut"):
        trainer(tiny, tmp_path / name, averaging=average).fit()
    changed = extension(longer, averaging=average)
    trainer(tiny, tmp_path / "whole", plan=longer, averaging=average, extension=changed).fit()
    for step in (13, 17):
        with pytest.raises(KeyboardInterrupt):
            trainer(
                tiny, tmp_path / "cut", plan=longer, averaging=average, watcher=Stops(step),
                extension=changed if step == 13 else None,
            ).fit()  # fmt: skip
    trainer(tiny, tmp_path / "cut", plan=longer, averaging=average).fit()
    assert_same_runs(tmp_path / "whole", tmp_path / "cut")
    assert (tmp_path / "whole/history.json").read_text() == (tmp_path / "cut/history.json").read_text()


@pytest.mark.parametrize(
    ("before", "after", "also", "said"),
    [
        (PLAN, PLAN.changed(epochs=2), {}, "3 epochs are done, and train.epochs=2 leaves nothing to train"),
        (PLAN, PLAN.changed(lr=0.1), {}, "3 epochs are done, and train.epochs=3 leaves nothing to train"),
        (
            PLAN.changed(schedule="one_cycle", warmup=0.25),
            PLAN.changed(schedule="one_cycle", warmup=0.25, epochs=6),
            {},
            "a one_cycle rises once, and in 6 epochs its learning rate would rise again, from 0.00556 to 0.0333",
        ),
        (PLAN.changed(warmup=0.5), PLAN.changed(warmup=0.5, epochs=8), {}, "8 epochs would warm up again"),
        (
            CONSTANT,
            CONSTANT.changed(epochs=8),
            {"averaging": Averaging(kind="ema", decay=0.8, start=0.5)},
            "averaging.start has begun, and would pause until 50% of 8 epochs are done; expected at most train.epochs=6",
        ),
        (
            CONSTANT,
            CONSTANT.changed(epochs=8),
            {"late_augmentation": LateAugmentation(kind="idbh")},
            "data.augment_late has begun, and would pause until 50% of 8 epochs are done; expected at most train.epochs=6",
        ),
        (
            CONSTANT,
            CONSTANT.changed(epochs=8),
            {"method": replace(METHODS["rslad"](), maximizer=WarmStart(CollapseGuard(LATE, Pgd(steps=2))))},
            "attack.late has begun, and would pause until 50% of 8 epochs are done; expected at most train.epochs=6",
        ),
    ],
    ids=["lower", "at the end", "one_cycle", "warmup", "averaging", "augmentation", "attack"],
)
def test_an_extension_that_is_not_clear_is_refused_and_loses_nothing(
    before: Plan, after: Plan, also: dict[str, Any], said: str, tiny: DataSet, tmp_path: Path
) -> None:
    also = {"averaging": NO_AVERAGE, **also}
    trainer(tiny, tmp_path, plan=before, **also).fit()
    files = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    another = replace(extension(after, before, also["averaging"]), late=also.get("late_augmentation"))
    with pytest.raises(MmardError) as error:
        trainer(tiny, tmp_path, plan=after, **also, extension=another).fit()
    assert said in str(error.value)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == files


def test_an_extended_run_is_not_at_its_end_before_its_new_one(tiny: DataSet, tmp_path: Path) -> None:
    """The last weights of the old plan stood for the end of the new one."""
    trainer(tiny, tmp_path, plan=CONSTANT, averaging=NO_AVERAGE).fit()
    assert RunFolder(tmp_path).is_finished()
    longer = CONSTANT.changed(epochs=6)
    with pytest.raises(KeyboardInterrupt):
        trainer(
            tiny, tmp_path, plan=longer, averaging=NO_AVERAGE, extension=extension(longer, CONSTANT), watcher=Stops(18)
        ).fit()
    assert not RunFolder(tmp_path).is_finished()
    trainer(tiny, tmp_path, plan=longer, averaging=NO_AVERAGE).fit()
    assert RunFolder(tmp_path).is_finished()


def test_a_run_that_ended_early_needs_more_patience(tiny: DataSet, tmp_path: Path) -> None:
    plan, patient = CONSTANT.changed(epochs=8, lr=0.0), Validation(patience=1)
    trainer(tiny, tmp_path, plan=plan, validation=patient, averaging=NO_AVERAGE).fit()
    assert len(RunFolder(tmp_path).metrics()) == 2
    longer = plan.changed(epochs=9)
    with pytest.raises(MmardError, match=r"ended early: 1 looks in a row .* validation.patience=null"):
        trainer(
            tiny, tmp_path, plan=longer, validation=patient, averaging=NO_AVERAGE, extension=extension(longer, plan)
        ).fit()


def test_a_run_that_reached_its_target_goes_on_no_further(tiny: DataSet, tmp_path: Path) -> None:
    plan, aimed = CONSTANT.changed(epochs=8), Validation(target=1e-3)
    trainer(tiny, tmp_path, plan=plan, validation=aimed, averaging=NO_AVERAGE).fit()
    assert len(RunFolder(tmp_path).metrics()) < 8
    longer = plan.changed(epochs=9)
    with pytest.raises(MmardError, match=r"ended at its validation\.target, 0\.001 %"):
        trainer(
            tiny, tmp_path, plan=longer, validation=aimed, averaging=NO_AVERAGE, extension=extension(longer, plan)
        ).fit()


# --- signals


@contextmanager
def ended_by(number: int) -> Iterator[None]:
    """As the command line ends by a signal; the tests' own process stays, and hears it also where it was begun by nohup."""
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with pytest.raises(Stopped) as stopped, on_signals(end_at_once):
            yield
    finally:
        signal.signal(number, before)
    assert stopped.value.code == 128 + number


class Sends(Watcher):
    """Sends this process a signal after so many steps."""

    def __init__(self, after: int, number: int) -> None:
        self.after, self.number = after, number

    def stepped(self, step: int, images: int) -> None:
        if step == self.after:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(
    ("number", "step", "lines"),
    [(signal.SIGTERM, 2, 0), (signal.SIGTERM, 4, 0), (signal.SIGHUP, 7, 1), (signal.SIGTERM, 12, 2)],
)
def test_a_signal_saves_the_very_step_and_the_run_ends_bit_equal(
    number: int, step: int, lines: int, tiny: DataSet, tmp_path: Path
) -> None:
    """Steps 4 and 12 end an epoch: the signal is heard in the midst of its judging, which is done again."""
    trainer(tiny, tmp_path / "whole").fit()
    with ended_by(number):
        trainer(tiny, tmp_path / "cut", watcher=Sends(step, number)).fit()
    folder = RunFolder(tmp_path / "cut")
    state = folder.load()
    assert state is not None
    assert state["step"] == step
    assert len(folder.metrics()) == lines
    trainer(tiny, tmp_path / "cut").fit()
    assert_same_runs(tmp_path / "whole", tmp_path / "cut")
    for record in folder.metrics():  # also of the epoch that the signal cut in two: 4 steps of 40 images
        assert record["images_per_second"] == pytest.approx(160 / record["seconds"])


class Dropping(nn.Module):
    """A network that draws in training mode, before a BatchNorm that is estimated anew for an average."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.drop = nn.Conv2d(1, 4, 3, 2, 1), nn.Dropout(0.5)
        self.norm, self.fc = nn.BatchNorm2d(4), nn.Linear(64, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.norm(self.drop(self.conv(x))).flatten(1))  # type: ignore[no-any-return]


def test_an_averages_statistics_are_the_same_after_a_signal_in_its_judging(tiny: DataSet, tmp_path: Path) -> None:
    def run(folder: Path, **changes: Any) -> Trainer:
        torch.manual_seed(0)
        return replace_field(
            trainer(tiny, folder, METHODS["pgd_at"](), teachers={}, **changes), "student", adopt(Dropping(), 4, 1)
        )

    run(tmp_path / "whole").fit()
    with ended_by(signal.SIGTERM):
        run(tmp_path / "cut", watcher=Sends(12, signal.SIGTERM)).fit()
    run(tmp_path / "cut").fit()
    assert_same_runs(tmp_path / "whole", tmp_path / "cut")


def test_a_signal_that_is_ignored_stays_so(tiny: DataSet, tmp_path: Path) -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        trainer(tiny, tmp_path, watcher=Sends(2, signal.SIGHUP)).fit()
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (tmp_path / "last.safetensors").exists()


def test_a_thread_of_ones_own_trains_without_handlers(tiny: DataSet, tmp_path: Path) -> None:
    trainer(tiny, tmp_path / "main").fit()
    torch.set_num_threads(1)
    run = trainer(tiny, tmp_path / "thread")
    thread = threading.Thread(target=run.fit)
    thread.start()
    thread.join()
    assert same(tmp_path / "main/last.safetensors", tmp_path / "thread/last.safetensors")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
