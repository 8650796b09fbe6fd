"""Runs with companions, state and wrappers: they learn, resume bit-equal, stop early, and say what is wrong in one line."""

import copy
import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import blobs, small_net
from test_training import Stops, assert_same_runs, same, trainer
from torch import nn

from mmard import Method, MmardError, Pgd, Threat, diagnose, distill, train
from mmard.core.companion import Companion
from mmard.core.objective import nothing
from mmard.data.images import DataSet
from mmard.methods import (
    METHODS,
    absld,
    adr,
    ard,
    awp,
    b_mtard,
    ciard,
    fair,
    igdm,
    mart,
    mmard,
    mtard,
    peeraid,
    pgd_at,
    rebat,
    rpat,
    rslad,
    standard,
    waypoints,
)
from mmard.methods.fair import ClassWeights
from mmard.methods.peeraid import hard_peer
from mmard.models.architectures import Architecture, Classifier
from mmard.models.weights import load_weights, metadata_of, read_state
from mmard.runs.folder import RunFolder
from mmard.terms import hard_nat
from mmard.training.averaging import Average, Averaging
from mmard.training.descent import LearningCompanion
from mmard.training.engine import Engine
from mmard.training.schedule import Plan
from mmard.training.update import Update
from mmard.training.validation import Validation

pytestmark = pytest.mark.figures

COMPOSED: dict[str, Callable[[], Method]] = {
    "peeraid": peeraid,
    "ciard": lambda: ciard(begin=0.3),
    "fair": lambda: fair(rslad(), beta=0.5),
    "awp": lambda: awp(peeraid(), gamma=0.05, begin=1),
    "adr": adr,
    "rebat": lambda: awp(rebat(begin=0.4), gamma=0.05),
    "waypoints": waypoints,
    "all": lambda: awp(mmard(igdm(fair(ciard()), alpha=1.0), inner="drift")),
}


@pytest.mark.parametrize("name", COMPOSED)
def test_a_resumed_run_is_bit_equal_to_an_unbroken_one(name: str, tiny: DataSet, tmp_path: Path) -> None:
    """Cut before and after a companion's beginning, within an epoch and at its end."""
    whole = trainer(tiny, tmp_path / "whole", COMPOSED[name]())
    whole.fit()
    for cut in (3, 8):
        with pytest.raises(KeyboardInterrupt):
            trainer(tiny, tmp_path / "cut", COMPOSED[name](), watcher=Stops(cut), checkpoint_every=3).fit()
    resumed = trainer(tiny, tmp_path / "cut", COMPOSED[name](), checkpoint_every=3)
    resumed.fit()
    assert_same_runs(tmp_path / "whole", tmp_path / "cut")
    for a, b in zip(whole.terms, resumed.terms, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a.buffers(), b.buffers(), strict=True))
    for companion in whole.beside:
        assert same(tmp_path / f"whole/{companion}.safetensors", tmp_path / f"cut/{companion}.safetensors")


def test_a_companion_learns_and_the_given_network_stays(tiny: DataSet, tmp_path: Path) -> None:
    """CIARD's teacher starts from the one that was given, which is left as it was."""
    given = small_net(seed=9)
    before = {name: t.clone() for name, t in given.state_dict().items()}
    networks = {"teacher": given, "natural": small_net(seed=8)}
    trainer(tiny, tmp_path, ciard(begin=0.0), teachers=networks).fit()
    after, learnt = given.state_dict(), read_state(tmp_path / "teacher.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    moved = [(learnt[name] - before[name]).abs().max() for name in before if name.endswith("weight")]
    assert 0 < max(moved) < 0.01  # its learning rate is small
    records = RunFolder(tmp_path).metrics()
    assert all("teacher/label" in r["terms"] for r in records)
    assert records[0]["loss"] == pytest.approx(sum(v for n, v in records[0]["terms"].items() if "/" not in n))


def test_a_peer_is_fresh_and_of_the_architecture_asked_for(tiny: DataSet, tmp_path: Path) -> None:
    """Another one than the student, also where both have the same shape; the same for the same seed."""
    run = trainer(tiny, tmp_path / "a", peeraid(), teachers={})
    same_seed = trainer(tiny, tmp_path / "b", peeraid(), teachers={})
    other = trainer(tiny, tmp_path / "c", peeraid(peer="cnn-8-3"), teachers={}, seed=1)
    weights = [next(r.beside["peer"].parameters()) for r in (run, same_seed)]
    assert torch.equal(*weights)
    assert not torch.equal(weights[0], next(run.student.parameters()))
    other.fit()
    assert load_weights(tmp_path / "c/peer.safetensors").architecture.name == "cnn-8-3"
    given = trainer(tiny, tmp_path / "d", peeraid(), teachers={"peer": small_net(seed=4)})
    assert torch.equal(next(given.beside["peer"].parameters()), next(small_net(seed=4).parameters()))


@pytest.mark.parametrize(
    ("build", "decay", "begin"), [(adr, 0.995, 0.0), (lambda: rebat(begin=0.5, decay=0.7), 0.7, 0.5)]
)
def test_an_average_follows_the_student(
    build: Callable[[], Method], decay: float, begin: float, tiny: DataSet, tmp_path: Path
) -> None:
    """After each step, weights and BatchNorm's statistics; before its time it is the student; at the end it is saved."""
    run = trainer(tiny, tmp_path, build(), teachers={})
    expected = copy.deepcopy(run.student.state_dict())
    update = run.update
    step, total = type(update)._step, run.total

    def watched(self: Update, progress: float, learning: list[object]) -> None:
        step(self, progress, learning)  # type: ignore[arg-type]
        kept = decay if progress >= begin else 0.0
        for name, value in self.student.state_dict().items():
            expected[name] = kept * expected[name] + (1 - kept) * value if value.is_floating_point() else value.clone()

    type(update)._step = watched  # type: ignore[method-assign]
    try:
        run.fit()
    finally:
        type(update)._step = step  # type: ignore[method-assign]
    saved = read_state(tmp_path / "average.safetensors")
    assert total > 4
    for name, value in expected.items():
        torch.testing.assert_close(saved[name], value, rtol=1e-5, atol=1e-6)
    last = read_state(tmp_path / "last.safetensors")
    assert any(not torch.equal(saved[name], last[name]) for name in last)
    net = load_weights(tmp_path / "average.safetensors")
    assert net.architecture == run.student.architecture
    assert not any(m.training for m in run.beside["average"].modules())
    assert not any(p.requires_grad for p in run.beside["average"].parameters())


def test_an_average_moves_a_tied_weight_once() -> None:
    own, student = (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)) for _ in range(2))
    for net, value in ((own, 0.0), (student, 1.0)):
        net[1].weight = net[0].weight
        nn.init.constant_(net[0].weight, value)
    LearningCompanion("average", Companion(average=0.9), own, own, own, epochs=1).follow(student, 0.5)
    torch.testing.assert_close(own[0].weight, torch.full((2, 2), 0.1))


def test_a_peer_of_a_student_that_is_a_module_is_given(tmp_path: Path) -> None:
    with pytest.raises(MmardError, match=r"only Python can build one like this student; .*teachers=\{'peer': MODULE\}"):
        distill(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), None, blobs(80), method="peeraid", threat=Threat(eps=0.1),
                out=tmp_path, train__batch_size=16)  # fmt: skip


def test_an_average_is_no_network_to_give(tiny: DataSet, tmp_path: Path) -> None:
    with pytest.raises(MmardError, match=r"the student's own average in this method; leave out teachers\.average"):
        trainer(tiny, tmp_path, adr(), teachers={"average": small_net(seed=4)})


def test_class_weights_come_from_the_epoch_before(tiny: DataSet, tmp_path: Path) -> None:
    """1 in the first epoch; then a spread within [5/6, 5/2], and counts of this epoch alone."""
    method = fair(pgd_at(), beta=1.0)
    (state,) = (m for m in method.modules() if isinstance(m, ClassWeights))
    with pytest.raises(KeyboardInterrupt):
        trainer(tiny, tmp_path, method, watcher=Stops(4)).fit()
    assert state.weights.tolist() == [1.0] * 4
    assert state.seen.sum() == 160 * 10
    with pytest.raises(KeyboardInterrupt):
        trainer(tiny, tmp_path / "b", method, watcher=Stops(5)).fit()
    assert state.seen.sum() <= 160 * 10
    assert 5 / 6 <= state.weights.min() <= state.weights.max() <= 5 / 2


def plain(seed: int) -> Classifier:
    """No BatchNorm, which would see parts of a batch."""
    torch.manual_seed(seed)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 4))
    return Classifier(layers, Architecture(name="plain", classes=4, channels=1))


def in_parts(method: Method, at_once: int, lr: float) -> tuple[Update, list[dict[str, torch.Tensor]]]:
    """Three steps of one epoch each, so many images at once; the attack has no random start."""
    x, y, index = blobs(40).batch(slice(None))
    update = Update(
        method=replace(method, maximizer=Pgd(steps=2, start="none")), threat=Threat(eps=0.1), student=plain(0).train(),
        teachers={name: plain(seed) for seed, name in enumerate(("peer", "teacher", "natural"), 1)},
        plan=Plan(lr=lr, batch_size=40, epochs=3), engine=Engine(accelerator="cpu"),
    )  # fmt: skip
    return update, [update(x, y, index, step / 3, at_once) for step in range(3)]


STATEFUL: dict[str, Callable[[], Method]] = {
    "mtard": mtard,
    "b_mtard": b_mtard,
    "absld": absld,
    "fair": lambda: fair(rslad(), beta=0.5),
    "ciard": lambda: ciard(balanced=True),
}


@pytest.mark.parametrize("name", STATEFUL)
def test_parts_of_a_batch_move_a_methods_state_as_the_whole(name: str) -> None:
    """After each of three epochs of one step; the student stays, for within a step its gradient may know less of the batch."""
    whole, parts = (
        [b for m in in_parts(STATEFUL[name](), at_once, lr=0.0)[0].method.modules() for b in m.buffers()]
        for at_once in (40, 10)
    )
    begun = [b for m in STATEFUL[name]().modules() for b in m.buffers()]
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert any(one.shape != old.shape or not torch.equal(one, old) for one, old in zip(whole, begun, strict=True))


def test_parts_of_a_batch_give_a_companion_the_gradient_of_the_whole() -> None:
    """Nets without BatchNorm, an attack without a random start: parts can change nothing but rounding."""
    found = []
    for at_once in (40, 10):
        update, means = in_parts(peeraid(), at_once, lr=0.1)
        found.append((update.student.state_dict(), update.companions[0].net.state_dict(), means))
    for a, b in zip(*found, strict=True):
        for one, other in zip(a if isinstance(a, list) else [a], b if isinstance(b, list) else [b], strict=True):
            assert one.keys() == other.keys()
            for key in one:
                torch.testing.assert_close(one[key], other[key], rtol=1e-4, atol=1e-6)


def test_a_copy_of_a_method_has_a_state_of_its_own() -> None:
    """What a trial step in the search for memory counts is not counted in the run; both terms of a copy share one state."""
    method = mmard(fair(rslad()), inner="drift", every=2)
    surrogate = copy.deepcopy(method)
    (state,), (other,) = (list(m.modules()) for m in (method, surrogate))
    assert isinstance(state, ClassWeights)
    assert other is not state
    assert [*surrogate.inner.modules()] == [*surrogate.outer.modules()] == [other]


WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "fair twice": (lambda: fair(igdm(fair(rslad()))), "fair stands twice"),
    "igdm twice": (lambda: igdm(mmard(igdm(rslad()))), "igdm stands twice"),
    "awp twice": (lambda: awp(fair(awp(rslad()))), "awp stands twice"),
    "no attack to count": (lambda: fair(standard()), "this base makes none; give one, such as base=ard"),
    "no slope to match": (lambda: igdm(standard(), alpha=1), "this base makes no x'; give one, such as base=rslad"),
    "no published alpha": (lambda: igdm(mart()), r"no published alpha .* rslad 0.9.*; give one, such as alpha=1"),
    "gamma": (lambda: awp(rslad(), gamma=-1.0), "awp: gamma is -1, expected a number not below 0"),
    "no terms": (lambda: Companion(outer=nothing), "nothing to train it by"),
    "an average that is trained": (lambda: Companion(outer=hard_nat, average=0.9), "leave out its outer and its plan"),
    "an average that stays": (lambda: Companion(average=1.0), r"average is 1, expected one in \[0, 1\)"),
    "rpat twice": (lambda: rpat(mmard(rpat())), "rpat stands twice"),
    "way points twice": (lambda: waypoints(waypoints()), "waypoints stands twice"),
    "weights that are uniform": (
        lambda: waypoints(uniform=True, kappa=5.0),
        "kappa says .* uniform=True weighs all alike",
    ),
    "a weight of nothing": (lambda: mmard(inner="drift", outer="none", gamma=3.0), "gamma is the outer term's"),
    "patience": (lambda: Validation(patience=0), "'patience' is 0: expected a number not below 1"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_compose_says_why(name: str) -> None:
    make, message = WRONG[name]
    with pytest.raises(MmardError, match=message):
        make()


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (lambda: igdm(pgd_at()), "asks for a 'teacher' model .*give one: teacher="),
        (lambda: mmard(pgd_at()), "asks for a 'teacher' model .*give one: teacher="),
        (ciard, "asks for a 'teacher' model .*give one: teacher="),
        (waypoints, "asks for a 'teacher' model .*give one: teacher="),
        (lambda: peeraid(peer="cnn-8"), "unknown model 'cnn-8'"),
        (lambda: ard(tau=0), "ard: tau is 0, expected a number above 0"),
        (lambda: waypoints(rslad(), kappa=0.0), "waypoints: kappa is 0, expected a number above 0"),
        (lambda: awp(rslad(), gamma=-1), "awp: gamma is -1, expected a number not below 0"),
        (lambda: adr(lam=0.8), r"adr: lam is 0.8, expected a list of numbers such as \[0.7, 0.95\]"),
        (lambda: mmard(inner=["drift"]), "mmard: inner is .'drift'., expected a word"),
        (lambda: Method(outer=hard_nat, companions={"peer": Companion(outer=hard_nat)}), "depend on its own weights"),
        (
            lambda: Method(outer=hard_nat, companions={"peer": Companion(outer=hard_peer, plan={"rate": 1})}),
            "unknown part of the plan of companion peer 'rate'",
        ),
    ],
)
def test_what_a_run_lacks_is_named(method: Callable[[], Method], message: str, tiny: DataSet, tmp_path: Path) -> None:
    with pytest.raises(MmardError, match=message):
        trainer(tiny, tmp_path, method(), teachers={}).fit()


def test_published_weights_of_igdm() -> None:
    """α by base, also beneath other wrappers."""
    published = {"ard": 5, "iad": 50, "rslad": 0.9, "adaad": 5, "adaiad": 5, "pgd_at": 60, "trades": 20}
    for name, alpha in published.items():
        assert igdm(METHODS[name]()).outer.terms[-1][0] == alpha
    assert igdm(awp(fair(ard()))).outer.terms[-1][0] == 5


def test_every_base_knows_its_name() -> None:
    """The one by which it is listed; and a wrapper leaves it."""
    bases = {name for name, build in METHODS.items() if "base" not in inspect.signature(build).parameters}
    assert METHODS.keys() - bases == {"mmard", "igdm", "fair", "awp", "rpat", "waypoints"}
    assert {name: METHODS[name]().name for name in bases} == {name: name for name in bases}
    assert awp(mmard(igdm(fair(rslad())))).name == "rslad"


@pytest.mark.parametrize("patience", [1, 2])
def test_a_run_ends_early_when_robust_accuracy_no_longer_rises(
    patience: int, tiny: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The looks say 10, 30, 20, 30 ...: the second is the best one; a tie is no gain; a resumed run stays ended."""
    said = [10.0, 30.0, 20.0, 30.0, 90.0]
    looks: list[float] = []

    def judge(*_: object, **__: object) -> dict[str, float]:
        looks.append(said[len(looks)])
        return {"clean": 50.0, "robust": looks[-1]}

    monkeypatch.setattr(Validation, "judge", judge)
    plan = Plan(epochs=5, batch_size=40, lr=0.05)
    changes: dict[str, object] = {"validation": Validation(patience=patience), "plan": plan, "teachers": {}}
    best = trainer(tiny, tmp_path, pgd_at(), **changes).fit()
    assert len(looks) == 2 + patience
    assert (best["robust"], best["epoch"]) == (30.0, 2.0)
    assert metadata_of(tmp_path / "best.safetensors")["epoch"] == 2
    assert metadata_of(tmp_path / "last.safetensors")["epoch"] == 2 + patience
    trainer(tiny, tmp_path, pgd_at(), **changes).fit()
    assert len(looks) == 2 + patience


def test_patience_survives_a_cut(tiny: DataSet, tmp_path: Path) -> None:
    changes: dict[str, object] = {"validation": Validation(patience=1)}
    trainer(tiny, tmp_path / "whole", pgd_at(), **changes).fit()
    with pytest.raises(KeyboardInterrupt):
        trainer(tiny, tmp_path / "cut", pgd_at(), watcher=Stops(5), **changes).fit()
    trainer(tiny, tmp_path / "cut", pgd_at(), **changes).fit()
    assert_same_runs(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize(("start", "taken"), [(0.0, 4), (0.5, 2), (3, 1), (1, 3)])
def test_an_equal_average_begins_at_an_epoch_or_a_share(start: float, taken: int) -> None:
    """Of 4 epochs: the ends of epochs after the start are averaged, with equal weights."""
    net = nn.Linear(1, 1)
    average = Average(Averaging(kind="swa", start=start).in_run_of(4), net)
    for epoch in range(1, 5):
        nn.init.constant_(net.weight, float(epoch))
        average.update(progress=epoch / 4, end_of_epoch=True)
    last = [float(epoch) for epoch in range(1, 5)][-taken:]
    assert average.model_to_judge([]).weight.item() == pytest.approx(sum(last) / taken)
    assert average.count == taken
    with pytest.raises(MmardError, match="begins after 4 epochs, and the run has 4"):
        Averaging(kind="swa", start=4).in_run_of(4)


def test_the_equal_averages_batchnorm_is_that_of_natural_images(tiny: DataSet, tmp_path: Path) -> None:
    """SWA from the second epoch on: statistics of the averaged weights on clean images, not augmented nor attacked."""
    trainer(tiny, tmp_path, pgd_at(), averaging=Averaging(kind="swa", start=1), teachers={}).fit()
    net = load_weights(tmp_path / "last.safetensors").net
    with torch.no_grad():
        first = net.features[0](tiny.train.batch(slice(None))[0])  # type: ignore[union-attr, index, operator]
    torch.testing.assert_close(net.features[1].running_mean, first.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)  # type: ignore[union-attr, index]


DIGITS = ["peeraid", "ciard", "igdm", "fair", "awp", "adr", "rebat", "dgad", "rpat", "waypoints"]


@pytest.mark.parametrize("name", DIGITS)
def test_two_epochs_of_digits(name: str, digits_teacher: Path, tmp_path: Path) -> None:
    """As a user would run it."""
    words = {
        "data__limit": 300,
        "train__epochs": 2,
        "train__batch_size": 50,
        "attack__steps": 2,
        "validation__steps": 2,
    }
    networks: dict[str, Any] = {"teacher": str(digits_teacher)}
    networks |= {"teachers": {"natural": str(digits_teacher)}} if name == "ciard" else {}
    folder = train(method=name, student="cnn-4-3", threat__eps=0.1, out=str(tmp_path / name), **words, **networks)
    assert [r["epoch"] for r in folder.metrics()] == [1, 2]
    assert folder.last_file.is_file()
    if name == "adr":  # its own network beside the student is with the run
        found = diagnose(folder, name, teacher=str(digits_teacher), limit=20)
        assert list(found.methods) == [name]
