"""A teacher's temperature is another teacher's: in every method, over a run, and where the run finds it itself."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import blobs, small_net
from test_training import Stops, assert_same_runs, same, trainer
from torch import Tensor, nn

from mmard import Distiller, Method, MmardError, Pgd, Threat, losses, train
from mmard.api.registry import build_method
from mmard.api.teacher_temperature import temperature_for
from mmard.attacks.inner.adaptive import EarlyStop
from mmard.core.objective import term
from mmard.core.views import Models, Views
from mmard.data.images import DataSet
from mmard.methods import METHODS
from mmard.models.weights import save_weights
from mmard.runs.folder import RunFolder
from mmard.terms import BOUNDARIES, TRIANGLES, soft_adv
from mmard.terms.temperature import Temperature, at_temperature
from mmard.training.callbacks import Watcher
from mmard.training.learned import begin_learned, watch_features
from mmard.training.step import make_example, outer_losses
from mmard.utils.errors import Note
from mmard.utils.trust import Trust

pytestmark = pytest.mark.figures

SHARP = Path(__file__).parents[2] / "docs/results/cifar10-pays/ideas/sharp.py"
OWN = {"ard": "teacher_tau", "iad": "teacher_tau", "iad_2": "teacher_tau", "adaiad": "teacher_tau"}
SOFT = ("rslad", "ard", "adaad", "adaiad", "iad", "iad_2", "igdm", "saad", "saad_c", "mmard", "waypoints")


class Divided(nn.Module):
    """A teacher whose logits are divided, as one that was trained so would give them."""

    def __init__(self, net: nn.Module, tau: float) -> None:
        super().__init__()
        self.net, self.tau = net, tau

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) / self.tau  # type: ignore[no-any-return]


def step(method: Method, teacher: nn.Module, progress: float = 0.5) -> tuple[Tensor, dict[str, Tensor]]:
    """Examples and losses of one step."""
    student, natural = small_net(), small_net(seed=8).eval().requires_grad_(False)
    x, y, index = blobs(12).batch(slice(None))
    models = Models({"student": student, "teacher": teacher, "natural": natural})
    torch.manual_seed(0)
    views = make_example(method, Views.of(x, y, index, models, progress, 4), student, Threat(eps=0.1))
    return views.adv.x, outer_losses(method, views, student)


def teacher() -> nn.Module:
    return small_net(seed=9).eval().requires_grad_(False)


CASES: dict[str, tuple[Method, Method]] = {
    name: (METHODS[name](**{OWN.get(name, "tau"): 0.3}), METHODS[name]()) for name in SOFT
} | {
    f"{inner}/{outer}": (METHODS["mmard"](inner=inner, outer=outer, tau=0.3), METHODS["mmard"](inner=inner, outer=outer))
    for inner, outer in [*((i, "contrast") for i in BOUNDARIES), *(("none", o) for o in TRIANGLES)]
} | {
    "drift, held and balanced": tuple(METHODS["mmard"](inner="drift", every=3, balance=True, tau=t) for t in (0.3, 1.0)),
    "samples that rest": tuple(
        replace(METHODS["mmard"](inner="drift", every=2, tau=t), maximizer=EarlyStop(pgd=Pgd(steps=6), at="student"))
        for t in (0.3, 1.0)
    ),
    "introspection begun": (METHODS["iad"](begin=0.2, teacher_tau=0.3), METHODS["iad"](begin=0.2)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_temperature_is_another_teacher(name: str) -> None:
    soft, plain = CASES[name]
    x, losses_ = step(soft, teacher())
    other_x, other_losses = step(plain, Divided(teacher(), 0.3).eval())
    assert torch.equal(x, other_x)
    assert losses_.keys() == other_losses.keys()
    for key, value in losses_.items():
        torch.testing.assert_close(value, other_losses[key])
    hard_losses = step(plain, teacher())[1]
    assert any(not torch.equal(losses_[key], hard_losses[key]) for key in losses_)


@pytest.mark.parametrize("name", SOFT)
def test_at_one_a_method_is_the_papers(name: str) -> None:
    assert str(METHODS[name](**{OWN.get(name, "tau"): 1})) == str(METHODS[name]())
    assert at_temperature(soft_adv, 1.0) is soft_adv
    assert at_temperature(soft_adv, [1, "1"]) is soft_adv


@pytest.mark.parametrize("name", SOFT)
def test_the_formula_says_the_temperature_of_each_term_that_asks_the_teacher(name: str) -> None:
    method = METHODS[name](**{OWN.get(name, "tau"): 0.3})
    asking = [str(each) for _, each in (*method.inner.terms, *method.outer.terms) if "T(x" in str(each)]
    assert asking
    assert [formula for formula in asking if "^0.3" not in formula] == []


def sharp(call: str, **parameters: Any) -> Method:
    return build_method({"name": f"{SHARP}:{call}", **parameters}, Trust(everything=True))


@pytest.mark.parametrize(
    ("own", "built"),
    [
        (("rslad", {"tau": 0.5}), lambda: METHODS["rslad"](tau=0.5)),
        (("matched", {}), lambda: METHODS["igdm"](METHODS["rslad"](tau=0.5))),
        (("parts", {"inner": "drift"}), lambda: METHODS["mmard"](METHODS["rslad"](tau=0.5), inner="drift")),
    ],
    ids=["rslad", "igdm", "mmard"],
)
def test_the_file_of_the_study_gives_the_same_run(
    own: tuple[str, dict[str, Any]], built: Callable[[], Method], tiny: DataSet, tmp_path: Path
) -> None:
    trainer(tiny, tmp_path / "file", sharp(own[0], **own[1])).fit()
    trainer(tiny, tmp_path / "package", built()).fit()
    for name in ("best.safetensors", "last.safetensors"):
        assert same(tmp_path / "file" / name, tmp_path / "package" / name)
    kept = [[sum(r["terms"].values()) for r in RunFolder(tmp_path / run).metrics()] for run in ("file", "package")]
    assert kept[0] == pytest.approx(kept[1], abs=1e-12)


def test_a_temperature_rises_over_the_run_and_a_resumed_run_is_bit_equal(tiny: DataSet, tmp_path: Path) -> None:
    rising = Temperature.of([0.25, 1])
    views = [Views.of(*blobs(2).batch(slice(None)), Models({}), progress) for progress in (0.0, 0.5, 1.0)]
    assert [rising.at(v) for v in views] == [0.25, 0.625, 1.0]
    run = lambda folder, **more: trainer(tiny, folder, METHODS["rslad"](tau=[0.25, 1]), **more)  # noqa: E731
    run(tmp_path / "whole").fit()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", watcher=Stops(6), checkpoint_every=2).fit()
    run(tmp_path / "cut").fit()
    assert_same_runs(tmp_path / "whole", tmp_path / "cut")
    trainer(tiny, tmp_path / "constant", METHODS["rslad"](tau=0.25)).fit()
    ends = [RunFolder(tmp_path / name).metrics()[-1]["loss"] for name in ("whole", "constant")]
    assert ends[0] != ends[1]


# --- auto


def test_auto_has_eight_tenths_of_a_nat_for_ten_classes_and_never_softens() -> None:
    draw = torch.Generator().manual_seed(3)
    for classes, wanted in ((10, 0.806), (100, 1.612), (2, 0.2426)):
        logits = 0.5 * torch.randn(500, classes, generator=draw)
        tau = temperature_for(logits)
        assert 0 < tau < 1
        assert float(losses.entropy(logits / tau).mean()) == pytest.approx(wanted, rel=1e-2)
        assert temperature_for(2 * logits) == pytest.approx(min(1, 2 * tau), rel=1e-3)
        assert temperature_for(1000 * logits) == 1


def test_a_teacher_without_range_is_one_line() -> None:
    with pytest.raises(MmardError, match=r"tau=auto: the teacher's mean entropy is 2\.3 .* no range .* give a number"):
        temperature_for(torch.zeros(9, 10))


class Lines(Watcher):
    """Keeps what is told, and may end the run as a kill would."""

    def __init__(self, after: int | None = None) -> None:
        self.after, self.lines = after, list[str]()

    def told(self, line: str) -> None:
        self.lines.append(line)

    def stepped(self, step: int, images: int) -> None:
        if step == self.after:
            raise KeyboardInterrupt


QUICK = {
    "data": {"name": "digits", "limit": 200}, "student": "cnn-4-2", "train": {"epochs": 2, "batch_size": 50},
    "attack": {"steps": 2}, "validation": {"steps": 2}, "threat": {"eps": 0.1}, "teacher_check": "none", "checkpoint_every": 1,
}  # fmt: skip


@pytest.fixture
def taught(tmp_path: Path) -> dict[str, Any]:
    save_weights(tmp_path / "teacher.safetensors", small_net(classes=10, seed=5).eval(), {"settings": {}})
    return {**QUICK, "teacher": str(tmp_path / "teacher.safetensors")}


@pytest.mark.parametrize(
    "method", ["rslad(tau=auto)", {"name": "mmard", "base": {"name": "ard", "teacher_tau": "auto"}}]
)
def test_auto_stands_in_the_settings_as_what_it_gave_and_a_resumed_run_is_bit_equal(
    method: Any, taught: dict[str, Any], tmp_path: Path
) -> None:
    recipe, lines = {**taught, "method": method}, Lines()
    whole = train(recipe, out=str(tmp_path / "whole"), watch=lambda _: lines)
    kept = yaml.safe_load((tmp_path / "whole/settings.yaml").read_text())["method"]
    inner = kept.get("base", kept)
    tau = inner[OWN.get(inner["name"], "tau")]["auto"]
    assert f"^{tau:g}" in (tmp_path / "whole/method.txt").read_text()
    assert any(line.startswith(f"tau: auto is {tau:g}: ") for line in lines.lines)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, out=str(tmp_path / "cut"), watch=lambda _: Lines(after=3))
    train(recipe, out=str(tmp_path / "cut"), resume=True)
    assert_same_runs(whole.path, tmp_path / "cut")
    train(whole.path, resume=True)  # its own settings, too, are those of the run
    with pytest.raises(MmardError, match="made with other settings: method"):
        train({**taught, "method": "rslad(tau=0.5)"}, out=str(whole.path), resume=True)
    train({**taught, "method": kept}, out=str(tmp_path / "again"))
    assert_same_runs(whole.path, tmp_path / "again")


def test_auto_without_range_leaves_no_run(taught: dict[str, Any], tmp_path: Path) -> None:
    net = small_net(classes=10)
    for p in net.parameters():
        nn.init.zeros_(p)
    save_weights(tmp_path / "teacher.safetensors", net.eval(), {"settings": {}})
    with pytest.raises(MmardError, match=r"tau=auto: the teacher's mean entropy is 2\.3 nats"):
        train({**taught, "method": "rslad(tau=auto)"}, out=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_auto_where_nothing_measures_it_is_one_line(taught: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(MmardError, match=r"tau=auto is measured on a run's training images"):
        Distiller("rslad(tau=auto)", small_net(), teacher(), Threat(eps=0.1))
    with pytest.raises(MmardError, match=r"tau=auto is measured on a run's training images"):
        step(METHODS["rslad"](tau="auto"), teacher())
    (tmp_path / "own.py").write_text(
        "from mmard.methods import METHODS\ndef build():\n    return METHODS['rslad'](tau='auto')\n"
    )
    with pytest.raises(MmardError, match="tau=auto stands in the method's own code"):
        train(taught, method=f"{tmp_path}/own.py:build", out=str(tmp_path / "run"))


def test_auto_in_a_method_of_ones_own(taught: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from mmard.methods import METHODS\nfrom mmard.terms.temperature import Tau\n"
        "def build(tau: Tau = 1.0):\n    return METHODS['rslad'](tau=tau)\n"
    )
    own = train({**taught, "method": {"name": f"{tmp_path}/own.py:build", "tau": "auto"}}, out=str(tmp_path / "own"))
    ours = train({**taught, "method": "rslad(tau=auto)"}, out=str(tmp_path / "ours"))
    assert_same_runs(own.path, ours.path)


@pytest.mark.parametrize(
    "tau", [0, -1, float("nan"), float("inf"), "x", True, None, [], [1, 2, 3], [0.5, None], {"auto": "auto"}, {"from": 1}, 1e-9]
)  # fmt: skip
def test_a_wrong_temperature_is_one_line(tau: Any) -> None:
    for spec in ({"name": "rslad", "tau": tau}, {"name": "mmard", "base": {"name": "iad", "teacher_tau": tau}}):
        with pytest.raises(MmardError, match=r"^(teacher_)?tau is .*, expected a (number|temperature) ") as said:
            build_method(spec)
        assert "\n" not in str(said.value)


def test_a_temperature_in_a_method_and_in_its_base_is_one_line() -> None:
    with pytest.raises(MmardError, match="tau stands in this method and in its base too"):
        build_method("mmard(igdm(rslad, tau=0.5), tau=0.5)")
    assert str(build_method("mmard(rslad, outer=none, tau=0.5)")) == str(build_method("rslad(tau=0.5)"))
    assert "T(x)^(0.25→1)" in str(build_method("mmard(rslad(tau=[0.25, 1]), inner=drift)"))
    assert str(build_method("rslad(tau=1/2)")) == str(build_method({"name": "rslad", "tau": "0.5"}))


@pytest.mark.parametrize("name", [*BOUNDARIES, *TRIANGLES])
def test_a_temperature_is_left_out_where_it_changes_nothing(name: str) -> None:
    objective, draw = {**BOUNDARIES, **TRIANGLES}[name], torch.Generator().manual_seed(0)
    weights = {who: torch.randn(64, 4, generator=draw) for who in ("student", "teacher")}
    models = Models({who: lambda x, w=w: x.flatten(1) @ w for who, w in weights.items()})  # type: ignore[misc]
    x, y, index = blobs(12).batch(slice(None))
    views = Views.of(x, y, index, models).moved_to(x + 0.1 * torch.rand(x.shape, generator=draw))
    values = [objective.total(views.at_temperature(tau)) for tau in (1.0, 0.25)]
    ((_, one),) = objective.terms
    assert one.scale_free == (name in ("contrast", "anchored"))
    assert torch.allclose(*values, rtol=1e-4, atol=1e-5) or not one.scale_free, values
    assert ("^0.25" in str(at_temperature(objective, 0.25))) != one.scale_free


def test_a_weighed_term_that_no_temperature_changes_stays_so() -> None:
    assert "^0.5" not in str(build_method("mmard(fair(mmard(rslad)), outer=none, tau=0.5)").outer).split("InfoNCE")[1]
    learned = term("w(T)")(lambda v: v.nat.teacher[:, 0])
    ((_, one),) = (TRIANGLES["contrast"].weighed(learned)).terms
    assert not one.scale_free


def test_a_distance_of_features_has_no_temperature_and_its_formula_says_none() -> None:
    soft, plain = (build_method(f"mmard(ibd, outer=none, tau={tau})") for tau in (0.25, 1))
    networks = {"student": small_net(), "teacher": teacher()}
    x, y, index = blobs(12).batch(slice(None))
    watch_features(plain, *networks.values())
    begin_learned(plain, networks, x, seed=0)
    (feature_term,) = [t for _, t in plain.outer.terms if t.features]
    views = Views.of(x, y, index, Models(networks)).moved_to(x + 0.01)
    torch.testing.assert_close(feature_term(views.at_temperature(0.25)), feature_term(views))
    assert str(feature_term) in str(soft)
    assert f"{feature_term} [T^" not in str(soft)
    assert "KL(T(x)^0.25‖S(x'))" in str(soft)


@pytest.mark.parametrize(
    "method",
    [
        "mmard(fair(mmard(pgd_at())), outer=none, tau=0.5)",
        "mmard(pgd_at, tau=0.5)",
        "mmard(trades, outer=none, tau=auto)",
        "mmard(pgd_at, outer=anchored, tau=[0.5, 1])",
    ],
)
def test_a_temperature_that_changes_nothing_at_all_is_told(method: str) -> None:
    with pytest.warns(Note, match="no term of this method depends on their size"):
        build_method(method)
