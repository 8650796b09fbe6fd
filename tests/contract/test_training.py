"""The loop: resume is bit-equal, terms keep their state, a loss that is not finite stops, averages are averages; its validation."""

import errno
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import small_net
from torch import Tensor, nn

from mmard import Method, MmardError, Objective, Pgd, Threat, Views, term
from mmard.attacks.pgd import untargeted
from mmard.data.images import DataSet
from mmard.diagnostics.triangle import triangle
from mmard.evaluation.run import run_attacks
from mmard.evaluation.suite import choose_attacks, suite
from mmard.methods import METHODS
from mmard.models.weights import load_weights, metadata_of, read_state
from mmard.runs.folder import RunFolder
from mmard.terms import hard_adv, hard_nat
from mmard.training.averaging import Average, Averaging
from mmard.training.callbacks import Watcher
from mmard.training.engine import Engine
from mmard.training.schedule import Plan
from mmard.training.trainer import Trainer
from mmard.training.validation import Validation
from mmard.utils.files import write_whole
from mmard.utils.numbers import seed_of

pytestmark = pytest.mark.figures


THREAT = Threat(eps=0.1)
TIMED = (
    "seconds",
    "images_per_second",
    "data_wait",
    "prepared_seconds",
    "peak_mib",
    "joules",
)  # of a record of the metrics, what no two runs share


def trainer(data: DataSet, folder: Path, method: Method | None = None, **changes: object) -> Trainer:
    """A run of 3 epochs with 4 steps each; augmentation, averaging, momentum and random starts are on."""
    settings: dict[str, object] = {
        "plan": Plan(epochs=3, batch_size=40, lr=0.05),
        "averaging": Averaging(kind="ema", decay=0.8),
        "augmentation": "crop+flip",
        "teachers": {
            name: small_net(seed=seed).eval().requires_grad_(False) for name, seed in (("teacher", 9), ("natural", 8))
        },
    }
    method = method or METHODS["mmard"]()
    return Trainer(
        method=method,
        threat=THREAT,
        student=small_net(),
        train=data.train,
        held_out=data.held_out,
        folder=RunFolder(folder),
        **{**settings, **changes},  # type: ignore[arg-type]
    )


class Stops(Watcher):
    """Ends the run, as a kill would, after so many steps."""

    def __init__(self, after: int) -> None:
        self.after = after

    def stepped(self, step: int, images: int) -> None:
        if step == self.after:
            raise KeyboardInterrupt


def same(one: Path, other: Path) -> bool:
    """Are two files of weights bit-equal?"""
    a, b = read_state(one), read_state(other)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def assert_same_runs(one: Path, other: Path) -> None:
    for name in ("best.safetensors", "last.safetensors"):
        assert same(one / name, other / name), name
    records = [[{k: v for k, v in r.items() if k not in TIMED} for r in RunFolder(p).metrics()] for p in (one, other)]
    assert records[0] == records[1]


@pytest.mark.parametrize("kind", ["none", "ema", "swa"])
@pytest.mark.parametrize("cuts", [(1,), (4,), (6, 7), (3, 11)])
def test_a_resumed_run_is_bit_equal_to_an_unbroken_one(
    kind: str, cuts: tuple[int, ...], tiny: DataSet, tmp_path: Path
) -> None:
    averaging = Averaging(kind=kind, decay=0.8, start=0.3)  # type: ignore[arg-type]
    trainer(tiny, tmp_path / "whole", averaging=averaging).fit()
    for cut in cuts:
        with pytest.raises(KeyboardInterrupt):
            trainer(tiny, tmp_path / "cut", averaging=averaging, watcher=Stops(cut), checkpoint_every=3).fit()
    trainer(tiny, tmp_path / "cut", averaging=averaging, checkpoint_every=3).fit()
    assert_same_runs(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_every_optimizer_resumes(optimizer: str, tiny: DataSet, tmp_path: Path) -> None:
    plan = Plan(epochs=3, batch_size=40, lr=0.01, optimizer=optimizer)  # type: ignore[arg-type]
    trainer(tiny, tmp_path / "whole", plan=plan).fit()
    with pytest.raises(KeyboardInterrupt):
        trainer(tiny, tmp_path / "cut", plan=plan, watcher=Stops(5)).fit()
    trainer(tiny, tmp_path / "cut", plan=plan).fit()
    assert_same_runs(tmp_path / "whole", tmp_path / "cut")


class Counter(nn.Module):
    """A term with state: it grows by what it has seen."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def objective(self) -> Objective:
        return term("growing CE")(self.grow)

    def grow(self, v: Views) -> Tensor:
        self.seen += 1
        return (1 + 0.1 * self.seen) * hard_adv(v)["hard_adv"]


def test_a_terms_state_is_saved_and_resumed(tiny: DataSet, tmp_path: Path) -> None:
    def method(counter: Counter) -> Method:
        return Method(inner=hard_adv, outer=counter.objective(), maximizer=Pgd(steps=2))

    whole, cut, resumed = Counter(), Counter(), Counter()
    trainer(tiny, tmp_path / "whole", method(whole)).fit()
    with pytest.raises(KeyboardInterrupt):
        trainer(tiny, tmp_path / "cut", method(cut), watcher=Stops(6)).fit()
    trainer(tiny, tmp_path / "cut", method(resumed)).fit()
    assert whole.seen == resumed.seen == 12
    assert_same_runs(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize("name", ["mtard", "b_mtard", "absld", "saad_c"])
def test_a_published_methods_state_is_saved_and_resumed(name: str, tiny: DataSet, tmp_path: Path) -> None:
    """Cut within an epoch and at its end; the restored method has seen nothing before."""
    trainer(tiny, tmp_path / "whole", METHODS[name]()).fit()
    for cut in (4, 6):
        with pytest.raises(KeyboardInterrupt):
            trainer(tiny, tmp_path / "cut", METHODS[name](), watcher=Stops(cut), checkpoint_every=3).fit()
    trainer(tiny, tmp_path / "cut", METHODS[name](), checkpoint_every=3).fit()
    assert_same_runs(tmp_path / "whole", tmp_path / "cut")


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tiny: DataSet, tmp_path: Path) -> None:
    @term("breaks at half")
    def breaks(v: Views) -> Tensor:
        return v.nat.student.sum(1) * (math.nan if v.progress >= 0.5 else 1)

    with pytest.raises(
        MmardError, match=r"loss term 'breaks' is not finite at step 6; the last good checkpoint is kept"
    ):
        trainer(tiny, tmp_path, Method(outer=hard_nat + 0.01 * breaks)).fit()
    state = RunFolder(tmp_path).load()
    assert state is not None
    assert state["step"] == 4
    never = term("breaks at once")(lambda v: v.nat.student.sum(1) * math.inf)
    with pytest.raises(MmardError, match="not finite at the first step, before any weight has moved"):
        trainer(tiny, tmp_path / "first", Method(outer=never)).fit()
    assert all(t.isfinite().all() for t in state["student"].values())
    assert all(t.isfinite().all() for t in load_weights(tmp_path / "best.safetensors").state_dict().values())


def test_a_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, lambda part: part.write_text("old"))

    def fills(part: Path) -> None:
        part.write_text("ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(MmardError, match="No space left on device"):
        write_whole(path, fills)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_the_best_checkpoint_is_chosen_on_the_held_out_split(tiny: DataSet, tmp_path: Path) -> None:
    best = trainer(tiny, tmp_path, METHODS["pgd_at"](), teachers={}).fit()
    validated = RunFolder(tmp_path).metrics()
    assert best["robust"] == max(r["robust"] for r in validated)
    assert metadata_of(tmp_path / "best.safetensors")["epoch"] == best["epoch"]
    assert metadata_of(tmp_path / "last.safetensors")["epoch"] == 3


def test_averages_are_averages(tiny: DataSet) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    for kind, expected in (("ema", [1.0, 1.5, 2.25]), ("swa", [1.0, 1.5, 2.0])):
        average = Average(Averaging(kind=kind, decay=0.5), net)  # type: ignore[arg-type]
        for step, value in enumerate((1.0, 2.0, 3.0)):
            nn.init.constant_(net[1].weight, value)
            average.update(progress=(step + 1) / 3, end_of_epoch=True)
            guess = average.model_to_judge([])
            assert guess[1].weight[0, 0].item() == pytest.approx(expected[step])  # type: ignore[index]


class Running(nn.Module):
    """A normalisation of one's own, with statistics that are no BatchNorm's."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("last", None)  # of a shape that is known from images alone
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean, self.last = 0.5 * self.mean + 0.5 * x.detach().mean(), x.detach()
        return (x - self.mean) * self.weight


@pytest.mark.parametrize("other", [nn.InstanceNorm2d(1, track_running_stats=True), Running()])
def test_an_average_has_the_statistics_of_other_layers_too(other: nn.Module) -> None:
    """They stayed what they were before training: a network that had learnt was judged and saved as a broken one."""
    net = nn.Sequential(other, nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).train()
    average = Average(Averaging(kind="ema", decay=0.9), net)
    for i in range(20):
        net(5 + torch.rand(4, 1, 6, 6))
        average.update((i + 1) / 20, False)
    kept = {name: buffer.clone() for name, buffer in other.named_buffers()}
    judged = average.model_to_judge([])
    assert judged is not net
    for name, buffer in judged[0].named_buffers():
        assert torch.equal(buffer, kept[name])
    assert next(iter(kept.values())).mean() > 4


def test_the_averages_batchnorm_is_estimated_on_natural_images(tiny: DataSet, tmp_path: Path) -> None:
    trainer(tiny, tmp_path, averaging=Averaging(kind="ema", decay=0.5)).fit()
    net = load_weights(tmp_path / "last.safetensors").net
    x = tiny.train.batch(slice(None))[0]
    with torch.no_grad():
        first = net.features[0](x)  # type: ignore[union-attr, index, operator]
    torch.testing.assert_close(net.features[1].running_mean, first.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)  # type: ignore[union-attr, index]


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (Plan(epochs=10, schedule="constant"), {0.0: 0.1, 0.99: 0.1}),
        (
            Plan(epochs=200, schedule="piecewise", milestones=(100, 150)),
            {0.49: 0.1, 0.5: 0.01, 0.74: 0.01, 0.75: 0.001},
        ),
        (Plan(epochs=10, schedule="piecewise", milestones=(0.5,), decay=0.5), {0.4: 0.1, 0.6: 0.05}),
        (Plan(epochs=10, schedule="cosine"), {0.0: 0.1, 0.5: 0.05, 1.0: 0.0}),
        (Plan(epochs=300, schedule="cosine", hold=150), {0.0: 0.1, 0.5: 0.1, 0.75: 0.05, 1.0: 0.0}),
        (Plan(epochs=10, schedule="cosine", hold=0.6, warmup=0.2), {0.1: 0.05, 0.4: 0.1, 0.8: 0.05}),
        (Plan(epochs=10, schedule="one_cycle", warmup=0.25), {0.0: 0.0, 0.125: 0.05, 0.25: 0.1, 0.625: 0.05, 1.0: 0.0}),
        (Plan(epochs=10, schedule="cosine", warmup=0.2), {0.1: 0.05, 0.2: 0.1, 0.6: 0.05}),
    ],
)
def test_schedules(plan: Plan, expected: dict[float, float]) -> None:
    assert {p: plan.lr_at(p) for p in expected} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"schedule": "piecewise", "hold": 0.5}, "train.hold=0.5 is of a cosine, and train.schedule=piecewise is none"),
        ({"schedule": "cosine", "hold": 30}, "train.hold=30 is not before the end, train.epochs=30; expected less"),
        (
            {"schedule": "one_cycle", "nesterov": True, "momentum": 0, "hold": 0.5},
            "train.hold=0.5 is of .*; and train.nesterov=true needs .*; and train.schedule=one_cycle peaks at train.warmup=0",
        ),
    ],
)
def test_a_plan_says_all_that_does_not_go_together(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(MmardError, match=says):
        Plan(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_and_lowers_its_loss(name: str, tiny: DataSet, tmp_path: Path) -> None:
    trainer(tiny, tmp_path, METHODS[name](), plan=Plan(epochs=8, batch_size=40, lr=0.05), augmentation="none").fit()
    pulls = [r["loss"] - r["terms"].get("pushed", 0.0) for r in RunFolder(tmp_path).metrics()]  # a push has no floor
    assert min(pulls[1:]) < pulls[0]


def test_a_batch_larger_than_the_data_names_the_cure(tiny: DataSet, tmp_path: Path) -> None:
    with pytest.raises(MmardError, match="batch_size 500 > 160 training images"):
        trainer(tiny, tmp_path, plan=Plan(batch_size=500))


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_gradient_that_is_not_finite_never_reaches_the_checkpoint(
    clip: float | None, tiny: DataSet, tmp_path: Path
) -> None:
    """The loss of the epoch's last step is finite and its gradient is not: only the weights tell."""

    @term("√0 at the end of the second epoch")
    def root(v: Views) -> Tensor:
        return (v.nat.student[:, 0] * (0 if v.progress > 0.57 else 1)).square().sqrt()

    plan = Plan(epochs=3, batch_size=40, lr=0.05, clip=clip)
    with pytest.raises(MmardError, match="a weight is not finite at step 7"):
        trainer(tiny, tmp_path, Method(outer=hard_nat + 0.01 * root), plan=plan, averaging=Averaging()).fit()
    state = RunFolder(tmp_path).load()
    assert state is not None
    assert state["step"] == 4
    assert all(t.isfinite().all() for t in state["student"].values())


def test_a_disk_that_fills_loses_nothing(tiny: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer(tiny, tmp_path / "whole").fit()
    sync, calls = os.fsync, []

    def fills(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", fills)
        with pytest.raises(MmardError, match="No space left on device"):
            trainer(tiny, tmp_path / "cut").fit()
    state = RunFolder(tmp_path / "cut").load()
    assert state is not None
    assert 0 < state["step"] < 12
    trainer(tiny, tmp_path / "cut").fit()
    assert_same_runs(tmp_path / "whole", tmp_path / "cut")


def test_a_kill_between_metrics_and_checkpoint_loses_no_line(
    tiny: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer(tiny, tmp_path / "whole").fit()
    with monkeypatch.context() as killed:
        killed.setattr(RunFolder, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            trainer(tiny, tmp_path / "cut").fit()
    trainer(tiny, tmp_path / "cut").fit()
    assert_same_runs(tmp_path / "whole", tmp_path / "cut")


def test_the_averages_statistics_do_not_depend_on_the_order_of_the_files(tiny: DataSet, tmp_path: Path) -> None:
    """Sorted by class, as in image folders: batches are mixed all the same, so the statistics are those of the whole set."""
    rows = tiny.train.labels.argsort(stable=True)
    sorted_by_class = replace(tiny, train=tiny.train.take(rows))
    trainer(sorted_by_class, tmp_path, averaging=Averaging(kind="ema", decay=0.5)).fit()
    net = load_weights(tmp_path / "last.safetensors").net
    with torch.no_grad():
        first = net.features[0](tiny.train.batch(slice(None))[0])  # type: ignore[union-attr, index, operator]
    whole = first.var((0, 2, 3))
    torch.testing.assert_close(net.features[1].running_var, whole, rtol=0.05, atol=1e-4)  # type: ignore[union-attr, index]


def test_accuracies_and_the_triangle_are_those_of_all_the_images(tiny: DataSet) -> None:
    student, teacher, images = small_net(seed=1), small_net(seed=2), tiny.held_out
    for net in (student.eval(), teacher.eval()):
        net.net.get_parameter("fc.weight").data *= 5000  # sure of what they say
    threat, part, seed = Threat(eps=0.1), 7, 3
    asked = {"part": part, "seed": seed, "engine": Engine(accelerator="cpu")}
    found = Validation(steps=2).judge([student, teacher], images, threat, **asked)

    x, y, _ = images.batch(slice(None))
    assert len(y) > part  # more than one batch
    made = []
    for start in range(0, len(y), part):
        torch.manual_seed(seed_of(seed, "judge", start))
        rows = slice(start, start + part)
        made.append(untargeted(Pgd(steps=2, start="uniform"))(student, x[rows], y[rows], threat))
    said = [net(at).detach() for net in (student, teacher) for at in (x, torch.cat(made))]
    expected = {edge: value["adjusted"] for edge, value in triangle(*said).items()}
    assert found["triangle"] == pytest.approx(expected, abs=1e-5)
    assert max(expected.values()) > 0.01
    assert found["clean"] == pytest.approx(100 * (said[0].argmax(1) == y).float().mean().item())
    assert found["robust"] == pytest.approx(100 * (said[1].argmax(1) == y).float().mean().item())
    alone = Validation(steps=2).judge([student], images, threat, **asked)
    assert alone == {name: found[name] for name in ("clean", "robust")}


def test_validation_by_autoattack_is_an_evaluations_and_ends_a_run_at_its_target(tiny: DataSet, tmp_path: Path) -> None:
    by = Validation(attack="autoattack-quick")
    free = trainer(tiny, tmp_path / "free", validation=by)
    free.fit()
    found = [line["robust"] for line in free.folder.metrics()]
    specs = choose_attacks("autoattack-quick", suite(seed=free.seed))
    scores = run_attacks(load_weights(tmp_path / "free/last.safetensors"), tiny.held_out, THREAT, specs)
    assert found[-1] == pytest.approx(100 * scores.accuracy("AutoAttack-quick"))
    assert max(found) > 0
    by, first = by.changed(target=max(found)), 1 + found.index(max(found))
    for _ in range(2):  # the second one goes on with what is over
        ended = trainer(tiny, tmp_path / "ended", validation=by)
        ended.fit()
        assert [line["epoch"] for line in ended.folder.metrics()] == [*range(1, first + 1)]
    assert metadata_of(tmp_path / "ended/last.safetensors")["epoch"] == first
    with pytest.raises(MmardError, match=r"validation\.target"):
        trainer(tiny, tmp_path / "ended").fit()


def test_no_attack_of_the_validation_takes_more_images_at_once_than_a_step(tiny: DataSet, tmp_path: Path) -> None:
    taken: list[int] = []

    class Watched(Validation):
        def judge(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
            taken.append(kwargs["part"])
            return super().judge(*args, **kwargs)

    for attack in ("pgd", "autoattack-quick"):
        plan = Plan(epochs=1, batch_size=20, lr=0.05)
        run = trainer(tiny, tmp_path / attack, plan=plan, validation=Watched(attack=attack, steps=1))
        assert run.plan.batch_size < len(run.held_out)
        run.fit()
        assert set(taken) == {run.plan.batch_size}
