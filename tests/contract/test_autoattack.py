"""AutoAttack in stages: the package's own verdicts by fewer network passes, and an evaluation that a kill cannot lose."""

import json
import random
import shutil
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Run, blobs, command, small_net
from pyautoattack import AutoAttack as Package
from pyautoattack.square import SquareAttack
from torch import Tensor, nn
from torch.nn import functional

from mmard import MmardError, Scores, Threat
from mmard.api.build import data_of
from mmard.api.evaluation_request import EvaluationRequest
from mmard.api.evaluation_target import EvalModel
from mmard.api.settings import read_settings
from mmard.attacks.autoattack import AutoAttack
from mmard.attacks.autoattack_pruning import Pruned, Remembering, in_parts, prints
from mmard.evaluation.cache import DiskCache, fingerprint
from mmard.evaluation.checks.run import evaluate_with_checks
from mmard.evaluation.loop import Execution
from mmard.evaluation.run import run_attacks
from mmard.evaluation.suite import choose_attacks, suite
from mmard.models.architectures import Architecture, Classifier
from mmard.models.folding import folded
from mmard.models.weights import save_weights
from mmard.utils.errors import Note

pytestmark = pytest.mark.figures

EPS = 0.13  # some of the blobs fall and some stand


@pytest.fixture(scope="module")
def net() -> nn.Module:
    """A network with BatchNorm that is right on most blobs, fooled on some: trained plainly for a second, on noisy images."""
    net, images = small_net(name="cnn-8-3"), blobs(160, seed=2)
    x, y, _ = images.batch(slice(None))
    descent = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for _ in range(60):
        loss = functional.cross_entropy(net(x + 0.15 * torch.randn_like(x).sign()), y)
        descent.zero_grad()
        loss.backward()
        descent.step()
    return net.eval().requires_grad_(False)


def the_packages(
    net: nn.Module, x: Tensor, y: Tensor, eps: float, size: int, **version: Any
) -> tuple[Tensor, dict[str, int]]:
    """Naive oracle: the package's own call on all the images, and the images each attack of it broke, from its log."""
    package = Package(net, norm="Linf", eps=eps, seed=5, **version)
    package.apgd.n_restarts = 1
    package.apgd_targeted.n_target_classes = package.fab.n_target_classes = 3
    package.square.n_queries = 300
    broken: dict[str, int] = {}

    def hear(said: str, *_: object) -> None:
        if "successfully perturbed" in said:
            name, _, counts, *_ = said.split(" - ")
            broken[name] = broken.get(name, 0) + int(counts.split(" out of ")[0])

    package.logger.debug = hear  # type: ignore[method-assign]
    try:
        x_adv, _ = package.run_standard_evaluation(x.contiguous(), y, batch_size=size)
    finally:
        del package.logger.debug
    return net(x_adv).argmax(1) == y, broken


@pytest.fixture
def few_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Square with 300 queries instead of 5,000."""
    old = SquareAttack.__init__

    def init(self: SquareAttack, *args: Any, **settings: Any) -> None:
        old(self, *args, **{**settings, "n_queries": 300})

    monkeypatch.setattr(SquareAttack, "__init__", init)


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.usefixtures("few_queries")
def test_each_attack_breaks_whom_it_breaks_in_one_plain_call_of_the_package(net: nn.Module, quick: bool) -> None:
    images = blobs(32, seed=3)
    x, y, _ = images.batch(slice(None))
    version: dict[str, Any] = (
        {"version": "custom", "attacks": ["apgd-ce", "apgd-t"]} if quick else {"version": "standard"}
    )
    right, broken = the_packages(net, x, y, EPS, 20, **version)
    specs = choose_attacks("autoattack", suite(20, 5), "quick" if quick else "standard")
    fast = in_parts(folded(net))
    scores = run_attacks(net, images, Threat(eps=EPS), specs, execution=Execution(batch_size=20, predict=fast))
    assert scores.attacks == ("clean", "AutoAttack-quick" if quick else "AutoAttack")
    assert torch.equal(scores.correct[:, 1], right)
    stages = scores.rows()[1]["stages"]
    assert [s["stage"] for s in stages] == ["APGD-CE", "APGD-T", "FAB-T", "Square"][: 2 if quick else 4]
    assert {s["stage"].lower(): s["broken"] for s in stages if s["broken"]} == {k: v for k, v in broken.items() if v}
    assert stages[0]["attacked"] == int(scores.correct[:, 0].sum())
    assert 0 < right.sum() < scores.correct[:, 0].sum()


class Counting:
    """Counts the images that a network is asked about."""

    def __init__(self, net: nn.Module) -> None:
        self.net, self.asked = net, 0

    def __call__(self, x: Tensor) -> Tensor:
        self.asked += len(x)
        return self.net(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("stage", ["apgd", "apgd_targeted"])
@pytest.mark.parametrize("eps", [0.05, 0.13, 0.4])
def test_broken_images_are_asked_no_more_and_the_same_are_broken(net: nn.Module, stage: str, eps: float) -> None:
    x, y, _ = blobs(24, seed=4).batch(slice(None))
    x = x.contiguous()
    made, counts = [], []
    for prune in (False, True):
        ask = Counting(net)
        attack = getattr(AutoAttack().package(ask, x, Threat(eps=eps)), stage)
        attack.seed, attack.n_iter = 5, 20
        if prune:
            Pruned(attack, ask)
        with torch.no_grad():
            made.append(attack.perturb(x, y))
        counts.append(ask.asked)
    plain, spared = made
    wrong = net(plain).argmax(1) != y
    assert torch.equal(net(spared).argmax(1) != y, wrong)
    assert (spared - x).abs().max() <= eps + 1e-6
    assert counts[1] < counts[0] if wrong.any() else counts[1] == counts[0]


def test_squares_repeats_are_answered_from_memory(net: nn.Module) -> None:
    x, y, _ = blobs(12, seed=4).batch(slice(None))
    x = x.contiguous()
    made, counts = [], []
    for remember in (False, True):
        ask = Counting(net)
        square = AutoAttack().package(ask, x, Threat(eps=0.1)).square
        square.seed, square.n_queries = 5, 700
        if remember:
            square.predict = Remembering(ask)
        made.append(square.perturb(x, y))
        counts.append(ask.asked)
    assert torch.equal(*made)
    assert counts[1] < 0.8 * counts[0]


def test_memory_gives_the_networks_own_answers_also_when_it_is_full() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 5)).requires_grad_(False)
    pool = torch.rand(40, 3, 2, 2).round(decimals=1)
    ask = Counting(net)
    memory = Remembering(ask, values=5 * 60)
    for _ in range(50):
        x = pool[torch.randint(40, (17,))]
        logits = memory(x)
        torch.testing.assert_close(logits, net(x))
        logits.fill_(-1.0)  # as Square writes into its logits
    assert ask.asked < 0.9 * 50 * 17


def test_images_share_a_print_when_all_their_bits_agree() -> None:
    x = torch.zeros(66, 1, 8, 8)
    for i in range(64):
        x[i].view(-1)[i] = 1.0
    found = prints(x)
    assert found[64] == found[65]
    assert len(set(found)) == 65


def test_what_is_broken_for_the_fast_network_alone_is_not_broken(net: nn.Module) -> None:
    """A fast network that is always wrong: the model's own verdicts come out all the same."""
    images, threat = blobs(12, seed=3), Threat(eps=EPS)
    specs = choose_attacks("autoattack", suite(12, 5), "quick")
    honest = run_attacks(net, images, threat, specs, execution=Execution(batch_size=12))
    misled = run_attacks(net, images, threat, specs, execution=Execution(batch_size=12, predict=lambda x: -net(x)))
    assert torch.equal(misled.correct, honest.correct)
    assert 0 < honest.correct[:, 1].sum() < honest.correct[:, 0].sum()


def test_the_stages_survive_the_disk(net: nn.Module, tmp_path: Path) -> None:
    scores = run_attacks(net, blobs(8), Threat(eps=0.1), choose_attacks("fgsm,autoattack", suite(), "quick"))
    scores.save(tmp_path)
    back = Scores.load(tmp_path)
    assert [(s.of, s.name, s.attacked, s.seconds) for s in back.stages] == [
        (s.of, s.name, s.attacked, s.seconds) for s in scores.stages
    ]
    assert all(torch.equal(a.right, b.right) for a, b in zip(back.stages, scores.stages, strict=True))
    assert back.rows() == json.loads((tmp_path / "scores.json").read_text())["attacks"]
    assert (tmp_path / "stages.csv").read_text().splitlines()[1].startswith("AutoAttack-quick,APGD-CE,")


def test_protocols_have_their_names() -> None:
    assert [*choose_attacks(None, suite(), "quick")] == ["FGSM", "PGD-20", "C&W", "AutoAttack-quick"]
    assert [*choose_attacks("cw,autoattack-quick", suite(), "standard")] == ["C&W", "AutoAttack-quick"]
    with pytest.raises(MmardError, match="unknown protocol 'fast'"):
        choose_attacks(None, suite(), "fast")


@pytest.mark.parametrize(
    ("names", "chosen", "said"),
    [
        ("fgsm,autoattack", ["FGSM", "AutoAttack-quick"], ["puts AutoAttack-quick in the place of AutoAttack"]),
        ("fgsm", ["FGSM"], ["protocol=quick changes nothing: AutoAttack is not among the attacks"]),
        ("none", [], ["protocol=quick changes nothing"]),
        ("autoattack-quick", ["AutoAttack-quick"], []),
        (None, ["FGSM", "PGD-20", "C&W", "AutoAttack-quick"], []),
    ],
)
def test_the_quick_protocol_is_told_where_the_attacks_named_say_otherwise(
    names: str | None, chosen: list[str], said: list[str]
) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert [*choose_attacks(names, suite(), "quick")] == chosen
    assert len(told) == len(said)
    assert all(issubclass(w.category, Note) and part in str(w.message) for w, part in zip(told, said, strict=True))


def test_autoattack_goes_on_from_autoattack_quick(net: nn.Module, tmp_path: Path) -> None:
    images, threat = blobs(12, seed=3), Threat(eps=EPS)
    apart = {
        name: run_attacks(net, images, threat, choose_attacks(name, suite(8, 5)), Execution(batch_size=8))
        for name in ("autoattack-quick", "autoattack")
    }
    both = choose_attacks("autoattack-quick,autoattack", suite(8, 5))
    scores = run_attacks(net, images, threat, both, Execution(batch_size=8, cache=DiskCache(tmp_path)))
    assert torch.equal(scores.correct[:, :2], apart["autoattack-quick"].correct)
    assert torch.equal(scores.correct[:, 2], apart["autoattack"].correct[:, 1])
    first, second = scores.stages[:2], scores.stages[2:4]
    assert [(s.name, s.attacked, s.seconds) for s in first] == [(s.name, s.attacked, s.seconds) for s in second]
    assert len(list(tmp_path.glob("*APGD-CE*"))) == 2  # batches of 8 and 4, attacked once


def test_a_batch_that_is_kept_is_not_judged_again(net: nn.Module, tmp_path: Path) -> None:
    images, threat = blobs(30, seed=3), Threat(eps=EPS)
    specs = choose_attacks("pgd-20,autoattack", suite(8, 5), "quick")
    whole = run_attacks(net, images, threat, specs, Execution(batch_size=8, cache=DiskCache(tmp_path)))
    files = sorted(tmp_path.iterdir())
    assert len([f for f in files if f.name.startswith("PGD-20")]) == 4
    for f in random.Random(0).sample(files, len(files) // 2):
        f.unlink()
    untouched = {f: f.stat().st_mtime_ns for f in tmp_path.iterdir()}
    spoilt = next(iter(untouched))
    spoilt.write_bytes(b"\x00" * 20)  # a broken disk's: found again
    again = run_attacks(net, images, threat, specs, Execution(batch_size=8, cache=DiskCache(tmp_path)))
    assert torch.equal(again.correct, whole.correct)
    assert sorted(tmp_path.iterdir()) == files
    assert all(f.stat().st_mtime_ns == then for f, then in untouched.items() if f != spoilt)


def test_other_weights_or_facts_have_another_name(net: nn.Module) -> None:
    own = net.state_dict()
    known = fingerprint(own, 1)
    assert known == fingerprint(own, 1) != fingerprint(own, 2)
    assert known != fingerprint(small_net(name="cnn-8-3").state_dict(), 1)


def test_a_network_of_other_parameters_or_other_code_never_goes_on_with_its_verdicts(tmp_path: Path) -> None:
    """Neither is in its layers or its weights: verdicts of a killed evaluation were taken for those of the next network."""
    images, threat, specs = blobs(12), Threat(eps=EPS), choose_attacks("pgd-20", suite())

    def folder(**own: Any) -> Path:
        built = Architecture(name="net.py:build", classes=3, channels=1, **own)
        return EvalModel(Classifier(small_net(), built), images, 12).cache_in(tmp_path, specs, threat, 8, 0).folder

    kinds = [
        {"code": "1"},
        {"code": "2"},
        {"code": "1", "parameters": {"shift": 0}},
        {"code": "1", "parameters": {"shift": 5}},
    ]
    assert len({folder(**own) for own in kinds}) == len(kinds)
    assert folder(code="1") == folder(code="1")


def test_what_verdicts_depend_on_has_a_folder_of_its_own(net: nn.Module, tmp_path: Path) -> None:
    images, threat, specs = blobs(12), Threat(eps=EPS), choose_attacks("pgd-20", suite())
    moved = replace(images, pixels=images.pixels.flip(0))
    steps = {"PGD-20": replace(specs["PGD-20"], detail=lambda _: "30 steps")}
    own, other = small_net(), small_net(seed=1)
    folders = [
        EvalModel(net, images, 12).cache_in(tmp_path, specs, threat, 8, 0).folder,
        EvalModel(net, moved, 12).cache_in(tmp_path, specs, threat, 8, 0).folder,
        EvalModel(net, images, 12).cache_in(tmp_path, steps, threat, 8, 0).folder,
        EvalModel(net, images, 12).cache_in(tmp_path, specs, Threat(eps=0.1), 8, 0).folder,
        EvalModel(net, images, 12).cache_in(tmp_path, specs, threat, 9, 0).folder,
        EvalModel(net, images, 12).cache_in(tmp_path, specs, threat, 8, 1).folder,
        EvalModel(net, images, 12, own).cache_in(tmp_path, specs, threat, 8, 0).folder,
        EvalModel(net, images, 12, other).cache_in(tmp_path, specs, threat, 8, 0).folder,
    ]
    assert len(set(folders)) == len(folders)
    assert folders[0] == EvalModel(net, blobs(12), 12).cache_in(tmp_path, specs, threat, 8, 0).folder


def test_another_batch_size_draws_other_numbers_and_has_results_of_its_own(tmp_path: Path) -> None:
    """It wrote over the scores that a study looks for, and the study began anew."""
    specs, model = choose_attacks("pgd-20", suite()), tmp_path / "run/best.safetensors"
    names = [EvaluationRequest(attacks="pgd-20", batch_size=n).folder(model, specs, 30).name for n in (500, 100, 50)]
    assert names == ["best_PGD-20", "best_PGD-20_batch-100", "best_PGD-20_batch-50"]


@pytest.mark.parametrize("steps", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_a_randomised_model_is_attacked_with_every_pass(
    steps: int, net: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = AutoAttack.package

    def short(self: AutoAttack, *of: Any) -> Any:
        made = package(self, *of)
        made.apgd.n_iter = made.apgd_targeted.n_iter = steps
        return made

    monkeypatch.setattr(AutoAttack, "package", short)

    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return net(x + 0.1 * torch.randn_like(x))  # type: ignore[no-any-return]

    spared: list[str] = []
    monkeypatch.setattr("mmard.attacks.autoattack.Pruned", lambda *_: spared.append("passes of APGD"))
    specs = choose_attacks("autoattack", suite(6, 0), "quick")
    scores = evaluate_with_checks(Noisy(), blobs(6, seed=3), Threat(eps=EPS), specs, execution=Execution(batch_size=6))
    assert [check["name"] for check in scores.metadata["checks"]][:1] == ["randomised"]
    assert spared == []  # the first wrong answer of many may be chance's; the package takes the last
    evaluate_with_checks(net, blobs(6, seed=3), Threat(eps=EPS), specs, execution=Execution(batch_size=6))
    assert len(spared) == 2


@pytest.mark.slow
def test_an_evaluation_killed_at_random_moments_ends_with_the_same_verdicts(mmard: Run, tmp_path: Path) -> None:
    digits, net = (
        data_of(read_settings("digits-rslad", {"data.limit": 400})).train,
        small_net(classes=10, name="cnn-4-2"),
    )
    x, y, _ = digits.in_memory().batch(slice(None))
    descent = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for _ in range(40):
        loss = functional.cross_entropy(net(x), y)
        descent.zero_grad()
        loss.backward()
        descent.step()
    save_weights(tmp_path / "model.safetensors", net)
    words = ["eval", "model.safetensors", "data.name=digits", "threat.eps=0.02", "--limit", 24, "--batch-size", 8]
    words += ["--attacks", "pgd-20,autoattack", "--protocol", "quick"]
    draw = random.Random(0)
    kept: list[int] = []
    for batch in ("PGD-20-0", "AutoAttack-APGD-CE-0"):  # wait until it is kept, then for a random moment more
        with subprocess.Popen(
            command(*words), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            while not list(tmp_path.glob(f"eval/*/parts/*/{batch}-*.safetensors")) and process.poll() is None:
                time.sleep(0.002)
            time.sleep(draw.uniform(0, 0.05))
            assert process.poll() is None, "the evaluation ended before it could be killed"
            process.kill()
        kept.append(len(list(tmp_path.glob("eval/*/parts/*/*.safetensors"))))
    assert kept == sorted(kept)
    done = mmard(*words)
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.glob("eval/*")
    assert not (folder / "parts").exists()
    cut = Scores.load(folder)
    shutil.rmtree(folder)
    assert mmard(*words).returncode == 0
    whole = Scores.load(folder)
    assert torch.equal(cut.correct, whole.correct)
    assert all(torch.equal(a.right, b.right) for a, b in zip(cut.stages, whole.stages, strict=True))
    assert whole.attacks == ("clean", "PGD-20", "AutoAttack-quick")
    assert 0 < whole.correct[:, 2].sum() < len(whole.correct)


@pytest.mark.parametrize("limit", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_the_benchmark_times_both_and_compares_their_verdicts(
    limit: int, honest: dict[str, Path], tmp_path: Path
) -> None:
    words = [honest["rslad"] / "best.safetensors", "--limit", limit, "--share", 0.02, "--json", "out.json"]
    words += ["--other-seed"] if limit > 3 else []
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "autoattack.py"
    done = subprocess.run(
        [sys.executable, str(script), *map(str, words)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    assert list(found["attacks"]) == ["APGD-CE", "APGD-T", "FAB-T", "Square"]
    assert found["attacks"]["Square"]["differ: ours"] == 0
    assert found["CPU ratio"] > 0


def test_the_progress_within_a_batch_is_told_and_changes_no_verdict(net: nn.Module) -> None:
    shares: dict[str, list[float]] = {}
    images = blobs(160, seed=3)
    x, y, _ = images.batch(slice(None))
    auto, threat = AutoAttack(seed=5), Threat(eps=EPS)
    for stage in auto.stages:
        told = shares.setdefault(stage, [])
        assert torch.equal(auto.stage(stage, net, x, y, threat, told.append), auto.stage(stage, net, x, y, threat))
        assert told == sorted(set(told))
        assert told[0] > 0
        assert told[-1] < 1
    last = {stage: told[-1] for stage, told in shares.items()}
    assert min(last["APGD-CE"], last["APGD-T"]) > 0.9, last
    assert min(map(len, shares.values())) > 10, shares

    done: list[int] = []
    specs = choose_attacks("autoattack-quick", suite(500, 5))
    run_attacks(
        net, images, threat, specs, Execution(on_progress=lambda name, n, _: done.append(n) if "Auto" in name else None)
    )
    assert done == sorted(done)
    assert done[-1] == len(images)
    assert len(set(done)) > 20
