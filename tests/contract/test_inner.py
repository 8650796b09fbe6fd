"""Cheaper inner processes in a run: what carries over is in the checkpoint, and switches come when they should."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import blobs, small_net
from test_training import Stops, assert_same_runs, trainer
from torch import Tensor, nn

from mmard import Method, MmardError, Pgd, Threat, Views, term
from mmard.api.build import method_of
from mmard.api.settings import read_settings
from mmard.api.train import _warn_of as warn_of
from mmard.attacks.inner.adaptive import EarlyStop, WarmStart
from mmard.attacks.inner.compose import Inner
from mmard.attacks.inner.one_step import RS_FGSM
from mmard.attacks.inner.switching import CollapseGuard, StepSwitch
from mmard.core.ascent import Ascent
from mmard.core.views import Models
from mmard.data.augment import sample_crop
from mmard.data.images import DataSet
from mmard.methods import METHODS
from mmard.runs.folder import RunFolder
from mmard.terms import hard_adv
from mmard.training.engine import Engine
from mmard.training.micro_batch import short
from mmard.training.schedule import Plan
from mmard.training.step import make_example
from mmard.training.trainer import Trainer
from mmard.training.update import Update
from mmard.training.validation import Validation
from mmard.utils.errors import Note

pytestmark = pytest.mark.figures

PARTS: dict[str, dict[str, Any]] = {
    "warm": {"steps": 2, "warm_start": True},
    "warm, stopping, late, guarded": {
        "steps": 2, "warm_start": True, "stop_at": "teacher", "late": {"after": 0.5, "steps": 3}, "guard": 4,
    },
    "one step, late": {"kind": "n-fgsm", "late": {"after": 0.5, "steps": 2}},
}  # fmt: skip


def method(name: str = "mmard", **parts: Any) -> Method:
    own = METHODS[name]()
    assert isinstance(own.maximizer, Pgd)
    return replace(own, maximizer=Inner(**parts).of(own.maximizer, Threat(eps=0.1)))


@pytest.mark.parametrize("micro_batch", [None, 20])
@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_a_resumed_run_is_bit_equal(
    parts: dict[str, Any], micro_batch: int | None, tiny: DataSet, tmp_path: Path
) -> None:
    whole = trainer(tiny, tmp_path / "whole", method(**parts), micro_batch=micro_batch)
    whole.fit()
    for cut in (1, 6, 10):
        with pytest.raises(KeyboardInterrupt):
            trainer(
                tiny, tmp_path / "cut", method(**parts), micro_batch=micro_batch, watcher=Stops(cut), checkpoint_every=3
            ).fit()
    last = trainer(tiny, tmp_path / "cut", method(**parts), micro_batch=micro_batch, checkpoint_every=3)
    last.fit()
    assert_same_runs(tmp_path / "whole", tmp_path / "cut")
    if parts.get("warm_start"):
        one, other = (t.method.maximizer for t in (whole, last))
        assert isinstance(one, WarmStart)
        assert isinstance(other, WarmStart)
        assert torch.equal(one.kept, other.kept)
        assert one.known.sum() == 160  # all that was learnt from
        assert (one.kept[one.known] != 0).flatten(1).any(1).all()


# --- a radius of its own


def test_examples_fill_a_ball_of_their_own_radius_and_validation_the_threats(tiny: DataSet, tmp_path: Path) -> None:
    """An attack of large steps ends at the ball's edge; what is validated does not know of the training's ball."""
    settings = read_settings(None, {"method": "pgd_at", "attack.eps": 0.2, "attack.step_size": 0.2, "threat.eps": 0.1})
    wide, threat = method_of(settings), Threat(eps=0.1)
    x, y, index = blobs(12).batch(slice(None))
    student = small_net()
    made = make_example(wide, Views.of(x, y, index, Models({"student": student})), student, threat).adv.x
    assert (made - x).abs().amax() == pytest.approx(0.2)
    assert " within 51/255\n" in str(wide)
    seen: list[Threat] = []

    class Spying(Validation):
        def judge(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
            seen.append(args[2])
            return super().judge(*args, **kwargs)

    trainer(tiny, tmp_path, wide, validation=Spying(steps=2)).fit()
    assert {t.eps for t in seen} == {0.1}


@pytest.mark.parametrize("parts", [{}, {"steps": 2, "warm_start": True, "guard": 3}, {"kind": "n-fgsm"}])
def test_the_threats_own_radius_changes_nothing(parts: dict[str, Any], tiny: DataSet, tmp_path: Path) -> None:
    threat, own = Threat(eps=0.1), METHODS["rslad"]()
    for name, eps in (("absent", {}), ("same", {"eps": 0.1}), ("other", {"eps": 0.12})):
        trainer(tiny, tmp_path / name, Inner(**parts, **eps).applied_to(METHODS["rslad"](), threat)).fit()
    assert str(Inner().applied_to(own, threat)) == str(own)
    assert_same_runs(tmp_path / "absent", tmp_path / "same")
    ends = [RunFolder(tmp_path / name).metrics()[-1]["loss"] for name in ("absent", "other")]
    assert ends[0] != ends[1]
    with pytest.raises(MmardError, match="is of a run with other settings: method"):
        trainer(tiny, tmp_path / "same", Inner(**parts).applied_to(own, threat)).fit()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"attack.eps": 0}, "setting 'attack.eps' is 0: expected a number above 0"),
        ({"attack.eps": -0.1}, "setting 'attack.eps' is -0.1: expected a number above 0"),
        ({"attack.eps": "nan"}, "setting 'attack.eps' is 'nan': expected a finite number"),
        ({"attack.eps": True}, "setting 'attack.eps' is True: expected a number"),
        ({"attack.eps": 10}, "eps 10 > 1: is it in 255ths? then write 10/255"),
        ({"attack.eps": 0.01, "attack.step_size": 0.02}, "step_size 0.0200 > eps 0.0100"),
    ],
)
def test_a_wrong_radius_is_one_line(words: dict[str, Any], said: str) -> None:
    with pytest.raises(MmardError) as error:
        method_of(read_settings(None, words))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_smaller_ball_than_the_threats_is_warned_of() -> None:
    """Where there is a ball, and by the eps with which training ends."""
    late = {"attack.late": {"after": 0.5, "steps": 2, "eps": "4/255"}}
    for words, key in (
        ({"attack.eps": "4/255"}, "attack.eps"),
        ({"attack.eps": "8/255"}, ""),
        ({"attack.eps": "10/255"}, ""),
        ({"attack.eps": "4/255", "method": "standard"}, ""),
        (late, "attack.late.eps"),
        ({**late, "attack.eps": "8/255"}, "attack.late.eps"),
        ({"attack.eps": "4/255", "attack.late": {"after": 0.5, "steps": 2, "eps": "8/255"}}, ""),
    ):
        settings = read_settings(None, {"threat.eps": "8/255", "method": "pgd_at", **words})
        with warnings.catch_warnings(record=True) as lines:
            warnings.simplefilter("always")
            warn_of(settings, method_of(settings), ())
        told = [str(line.message).partition(":")[0] for line in lines if "changes nothing" not in str(line.message)]
        assert told == ([f"{key} 4/255 is below threat.eps 8/255"] if key else [])


def test_a_warm_start_changes_the_run(tiny: DataSet, tmp_path: Path) -> None:
    """Else the test above could not fail."""
    for name, warm in (("cold", False), ("warm", True)):
        trainer(tiny, tmp_path / name, method(steps=2, warm_start=warm)).fit()
    cold, warm_losses = ([r["loss"] for r in RunFolder(tmp_path / name).metrics()] for name in ("cold", "warm"))
    assert cold[0] == warm_losses[0]  # in the first epoch there is nothing to start from
    assert cold[2] != warm_losses[2]


@pytest.fixture
def calls() -> list[int]:
    return []


def counting(calls: list[int], process: Any) -> Method:
    """A method that counts, for each training step, the steps of its attack."""

    @term("counted CE")
    def counted(v: Views) -> Tensor:
        calls[-1] += 1
        return hard_adv(v)["hard_adv"]

    @term("end of a step")
    def ends(v: Views) -> Tensor:
        calls.append(0)
        return hard_adv(v)["hard_adv"]

    calls.append(0)
    return Method(inner=counted, outer=ends, maximizer=process)


def test_late_has_a_ball_and_a_step_of_its_own() -> None:
    """ReBAT++: ten steps of 2/255 within 8/255, then twelve of 2/255 within 10/255; named, so that no other run resumes it."""
    late = {"after": 0.5, "steps": 12, "eps": "10/255", "step_size": "2/255"}
    process = method_of(read_settings(None, {"method": "pgd_at", "threat.eps": "8/255", "attack.late": late})).maximizer
    assert isinstance(process, StepSwitch)
    assert str(process).endswith("from 50 % of the run on PGD-12 (step 2/255, start uniform) within 10/255")
    x, y, index = blobs(8).batch(slice(None))
    x = 0.2 + 0.6 * x
    for progress, reached in ((0.49, 8 / 255), (0.5, 10 / 255)):
        views = Views.of(x, y, index, Models({"student": small_net().eval()}), progress, 10)
        x_adv = process(Ascent(METHODS["pgd_at"]().inner, views), x, Threat(eps=8 / 255))
        assert (x_adv - x).abs().max().item() == pytest.approx(reached, rel=1e-4)


def test_late_switches_at_the_right_step(calls: list[int], tiny: DataSet, tmp_path: Path) -> None:
    late = StepSwitch(first=Pgd(steps=2), then=Pgd(steps=5), after=0.75)
    trainer(tiny, tmp_path, counting(calls, late)).fit()
    assert calls[:-1] == [2] * 9 + [5] * 3  # 12 steps


@pytest.mark.parametrize(
    ("validated", "collapsed"),
    [
        ([(80, 50), (82, 24.9), (85, 60)], [False, True, True]),  # for good
        ([(80, 50), (82, 25), (85, 60)], [False, False, False]),  # half is not below half
        ([(80, 50), (39, 10), (85, 60)], [False, False, False]),  # a student that fell apart altogether
        ([(10, 10), (40, 4), (60, 12), (60, 20), (70, 5)], [False] * 5),  # never above twice chance
        ([(10, 10), (40, 4), (60, 12), (60, 21), (70, 5)], [False, False, False, False, True]),
    ],
)
def test_what_a_collapse_is(validated: list[tuple[float, float]], collapsed: list[bool]) -> None:
    guard = CollapseGuard(RS_FGSM, Pgd())
    found = []
    for clean, robust in validated:
        before = guard.collapsed
        assert guard.validated(clean, robust, chance=10) == (guard.collapsed and not before)
        found.append(guard.collapsed)
        other = CollapseGuard(RS_FGSM, Pgd())
        other.load_state_dict(guard.state_dict())
        guard = other  # as if it were resumed each time
    assert found == collapsed


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("cuts", [(), (3, 9), (8, 10)])
def test_the_guard_acts_on_a_collapse_once_and_when_resumed(
    cuts: tuple[int, ...], warm: bool, calls: list[int], tiny: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up = {4: (90.0, 60.0), 8: (92.0, 3.0), 12: (93.0, 40.0)}
    runs: list[Trainer] = []

    def judge(*_: object, **__: object) -> dict[str, float]:
        return dict(zip(("clean", "robust"), made_up[runs[-1].step], strict=True))

    monkeypatch.setattr(Validation, "judge", judge)

    def run(**changes: Any) -> None:
        guard = CollapseGuard(Pgd(steps=1), Pgd(steps=4))
        runs.append(trainer(tiny, tmp_path, counting(calls, WarmStart(guard) if warm else guard), **changes))
        runs[-1].fit()

    for cut in cuts:
        with warnings.catch_warnings(record=True), pytest.raises(KeyboardInterrupt):
            run(watcher=Stops(cut))
    calls.clear()
    with warnings.catch_warnings(record=True) as told:
        run()
    words = [str(w.message) for w in told]
    assert calls[:-1] == ([4] * 4 if cuts else [1] * 8 + [4] * 4)  # the checkpoint at step 8 knows
    assert len(words) == (0 if cuts else 1)
    assert all("in epoch 2, to 3.0 % from 60.0 %" in w and "from here on PGD-4 (" in w for w in words)
    assert [r["collapsed"] for r in RunFolder(tmp_path).metrics()] == [False, True, True]


def test_plain_settings_make_a_plain_pgd_and_have_no_guard_in_the_metrics(tiny: DataSet, tmp_path: Path) -> None:
    assert method_of(read_settings(None, {})).maximizer == Pgd(steps=10)
    trainer(tiny, tmp_path).fit()
    assert all("collapsed" not in r for r in RunFolder(tmp_path).metrics())


SAID = {
    "plain": ({}, "by PGD-10 (step eps/4, start gaussian)"),
    "all": (
        {
            "steps": 3, "step_size": 0.01, "stop_at": "teacher", "warm_start": True,
            "late": {"after": 0.75, "steps": 8}, "guard": 10,
        },
        "by PGD-3 (step 0.01, start gaussian), each sample until T's class at x' is not its class at x; from 75 % of the run on "
        "PGD-8 (step eps/4, start gaussian), each sample until T's class at x' is not its class at x; after a collapse "
        "PGD-10 (step eps/4, start gaussian), each sample until T's class at x' is not its class at x, starting where the last "
        "epoch ended",
    ),
    "one step": (
        {"kind": "n-fgsm", "guard": 10},
        "by N-FGSM (noise ±2 eps, one step of 1 eps, not clipped); after a collapse PGD-10 (step eps/4, start gaussian)",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("attack", "said"), SAID.values(), ids=SAID)
def test_the_formula_says_what_the_settings_made(attack: dict[str, Any], said: str) -> None:
    settings = read_settings(None, {f"attack.{key}": value for key, value in attack.items()})
    assert str(method_of(settings)).splitlines()[0].endswith(said)
    assert str(method_of(read_settings(settings))) == str(method_of(settings))


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "two lengths": ({"attack.kind": "rs-fgsm", "attack.steps": 5}, "attack.steps does not go with attack.kind=rs-fgsm"),
    "two starts": ({"attack.kind": "n-fgsm", "attack.warm_start": True}, "attack.warm_start does not go with .*n-fgsm"),
    "no step to stop before": ({"attack.kind": "n-fgsm", "attack.stop_at": "teacher"}, "attack.stop_at does not go"),
    "a ball of another norm": ({"attack.kind": "rs-fgsm", "threat.norm": "l2"}, "is for linf, the threat is l2"),
    "kind": ({"attack.kind": "fgsm"}, "'attack.kind' is 'fgsm': expected 'pgd', 'rs-fgsm' or 'n-fgsm'"),
    "where to stop": ({"attack.stop_at": "both"}, "'attack.stop_at' is 'both'.* 'teacher' or 'student'"),
    "late is no number": ({"attack.late": 0.75}, "attack.late"),
    "late without steps": (
        {"attack.late": {"after": 0.5}},
        "setting 'attack.late.steps' is missing",
    ),
    "late, too far": ({"attack.late": {"after": 0.5, "steps": 3, "eps": 10}}, "is it in 255ths"),
    "late, swapped": ({"attack.late": {"after": 0.5, "steps": 3, "step_size": 0.9}}, "are the two swapped"),
    "late too late": ({"attack.late": {"after": 1.5, "steps": 3}}, "after is 1.5, expected a share"),
    "a swap": (
        {"attack.step_size": "8/255", "threat.eps": "2/255", "attack.stop_at": "student"},
        "are the two swapped",
    ),
    "compiled": (
        {"attack.stop_at": "student", "engine.compile": True},
        "batches of every size, and engine.compile is for one",
    ),
    "guard": ({"attack.guard": 0}, "'attack.guard' is 0"),
    "counts of iterates": (
        {"attack.stop_at": "student", "method": "mmard(fair(rslad), inner=drift, balance=True, every=2)"},
        "fair counts how many of all its iterates are right; leave one of them out",
    ),
    "statistics": (
        {"attack.stop_at": "student", "method": {"name": "ard", "attack_in_train_mode": True}},
        "whose statistics this method's attack uses",
    ),
}


@pytest.mark.parametrize(("words", "expected"), MISTAKES.values(), ids=MISTAKES)
def test_parts_that_do_not_go_together_are_one_line(words: dict[str, Any], expected: str) -> None:
    with pytest.raises(MmardError, match=expected) as told:
        method_of(read_settings(None, words))
    assert "\n" not in str(told.value)


def test_an_attack_that_is_not_made_is_told() -> None:
    """A recipe's attack may stand beside any method; of one that attacks nothing it changes nothing."""
    with pytest.warns(Note, match=r"standard attacks nothing, so attack\.eps changes nothing"):
        method_of(read_settings(None, {"method": "standard", "attack.eps": "16/255"}))


def test_memory_is_measured_on_one_step_without_the_store() -> None:
    process = method(**PARTS["warm, stopping, late, guarded"]).maximizer
    assert short(process) == EarlyStop(pgd=Pgd(steps=1), at="teacher")


def test_parts_of_a_batch_keep_what_the_whole_would() -> None:
    """Each part has its own rows of the augmentation."""
    x, y, index = blobs(40).batch(slice(None))
    torch.manual_seed(0)
    frame, kept = sample_crop(x, "crop+flip"), []
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 4))  # no BatchNorm, which sees parts
    for at_once in (None, 10):
        warm = WarmStart(Pgd(steps=2, start="none"))
        warm.make_room(40, x.shape[1:])
        method = replace(METHODS["pgd_at"](), maximizer=warm)
        plan, engine = Plan(lr=0.0, batch_size=40), Engine(accelerator="cpu")
        update = Update(method=method, threat=Threat(eps=0.1), student=net, teachers={}, plan=plan, engine=engine)
        for _ in range(2):
            update(frame(x), y, index, 0.0, at_once, frame)
        kept.append(warm.kept.view(torch.float16).float())
    assert kept[0].abs().max() > 0.05
    assert torch.isclose(kept[0], kept[1], atol=1e-3).float().mean() > 0.99
