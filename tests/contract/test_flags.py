"""After the attacks: flags on hand-made verdicts, and on models where they must show."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import QUICK, Run, blobs, small_net
from torch import Tensor, nn

from mmard import Pgd, Threat
from mmard.data.images import Images
from mmard.evaluation.checks import probes
from mmard.evaluation.checks.consistency import beats, flags_of_probes, flags_of_verdicts
from mmard.evaluation.checks.run import evaluate_with_checks
from mmard.evaluation.loop import Execution
from mmard.evaluation.run import run_attacks
from mmard.evaluation.scores import Scores, Stage
from mmard.evaluation.suite import AttackSpec

pytestmark = pytest.mark.figures

N = 200
HONEST = {"clean": 180, "FGSM": 130, "PGD-20": 110, "C&W": 106, "AutoAttack": 100}
PROBED = {
    probes.STEPS_100: 109,
    probes.RESTARTED: 106,
    probes.TWICE: 10,
    probes.WHOLE: 0,
    probes.SQUARE: 140,
    f"{probes.TRANSFER}the teacher": 150,
}


def verdicts(rights: dict[str, int], **metadata: object) -> Scores:
    """The first so many samples are right."""
    columns = torch.stack([torch.arange(N) < count for count in rights.values()], 1)
    names = tuple(rights)
    return Scores(columns, names, names, (0.0,) * len(names), torch.arange(N), {"outside_the_threat": {}, **metadata})


def flagged(changes: dict[str, int]) -> set[str]:
    """Names of the flags where honest verdicts are changed so."""
    main = verdicts({name: changes.get(name, count) for name, count in HONEST.items()})
    probed = verdicts({name: changes.get(name, count) for name, count in PROBED.items()})
    return {check.name for check in [*flags_of_verdicts(main), *flags_of_probes(main, probed)]}


CASES: dict[str, dict[str, int]] = {
    "honest": {},
    "order": {"FGSM": 100, "C&W": 112},
    "order of the last": {"AutoAttack": 125},
    "steps": {probes.STEPS_100: 85, "AutoAttack": 84},
    "restarts": {probes.RESTARTED: 85},
    "ce-against-margin": {"C&W": 70, "AutoAttack": 70},
    "eps-growth": {probes.TWICE: 120},
    "eps-1": {probes.WHOLE: 15},
    "square": {probes.SQUARE: 100},
    "transfer": {f"{probes.TRANSFER}the teacher": 100},
}


@pytest.mark.parametrize("name", CASES)
def test_each_flag_by_its_name_and_no_other(name: str) -> None:
    expected = {"honest": set(), "order of the last": {"order"}}.get(name, {name})
    assert flagged(CASES[name]) == expected


def test_a_whole_square_speaks_too_alone_or_as_a_part_of_autoattack() -> None:
    main = {**HONEST, "AutoAttack": 60}
    after_fab, after_square = torch.arange(N) < 100, torch.arange(N) < 60
    stages = tuple(
        Stage("AutoAttack", name, right, 110, 0.0) for name, right in (("FAB-T", after_fab), ("Square", after_square))
    )
    (flag,) = flags_of_verdicts(replace(verdicts(main), stages=stages))
    assert (flag.name, flag.said) == ("square", "AutoAttack: 40 of 200 images that white-box attacks (50.0 %) left")
    honest = tuple(replace(stage, right=after_fab) for stage in stages)
    assert flags_of_verdicts(replace(verdicts(HONEST), stages=honest)) == []
    alone = {"clean": 180, "AutoAttack-quick": 100}
    assert flags_of_verdicts(verdicts(alone | {"Square": 99})) == []
    assert {flag.name for flag in flags_of_verdicts(verdicts(alone | {"Square": 80}))} == {"square"}


def test_more_steps_that_beat_autoattack_are_out_of_order() -> None:
    assert flagged({probes.STEPS_100: 104, "AutoAttack": 106, "C&W": 107}) == set()
    main = verdicts({**HONEST, "AutoAttack": 108})
    names = {check.said.split()[0] for check in flags_of_probes(main, verdicts({**PROBED, probes.STEPS_100: 90}))}
    assert probes.STEPS_100 in names


def test_a_handful_is_within_the_tolerance() -> None:
    assert flagged({probes.STEPS_100: 112, probes.WHOLE: 8, probes.SQUARE: 103, "AutoAttack": 108}) == set()


def test_beats_is_a_test_of_pairs() -> None:
    def naive(one: list[bool], other: list[bool]) -> bool:
        b = sum(1 for i, j in zip(one, other, strict=True) if j and not i)
        c = sum(1 for i, j in zip(one, other, strict=True) if i and not j)
        return b - c > 2 and (b - c) ** 2 > 9 * (b + c)

    draw = torch.Generator().manual_seed(0)
    seen = set()
    for share in torch.linspace(0.3, 0.8, 60).tolist():
        one, other = torch.rand(100, generator=draw) < 0.5, torch.rand(100, generator=draw) < share
        assert beats(one, other) == naive(one.tolist(), other.tolist())
        seen.add(beats(one, other))
    assert seen == {True, False}


def test_an_attack_that_oversteps_is_an_error_with_its_count() -> None:
    def far(_: object, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
        step = torch.where(torch.arange(len(x)) % 4 == 0, 1.01, 0.99)
        return (x + threat.eps * step.view(-1, 1, 1, 1)) if threat.eps else x

    images = blobs(40)
    images = Images(images.pixels // 2, images.labels, images.classes, images.index)
    scores = evaluate_with_checks(
        small_net(), images, Threat(eps=0.1), {"far": AttackSpec(far, lambda _: "far", scale_free=True)}
    )
    assert scores.metadata["outside_the_threat"] == {"clean": 0, "far": 10}
    (norm,) = (check for check in scores.metadata["checks"] if check["name"] == "norm")
    assert (norm["level"], norm["said"]) == ("error", "far: 10 of 40 images lie outside of the threat")


def test_figures_that_do_not_stand_end_the_command_with_1(
    mmard: Run, digits_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["eval", digits_teacher, "threat.eps=0.1", "--attacks", "fgsm", "--limit", 40]
    assert mmard(*words).returncode == 0
    monkeypatch.setattr(Pgd, "run", lambda _self, _loss, x, _start, threat: x + 2 * threat.eps)
    done = mmard(*words)
    assert done.returncode == 1
    assert "images lie outside of the threat" in done.stdout


class Gate(nn.Module):
    """Class 1 where the mean is above 0.5, with a gradient that points nowhere: only a search finds out."""

    def forward(self, x: Tensor) -> Tensor:
        rise = 20 * (x.flatten(1).mean(1) - 0.5)
        rise = rise.detach() + (x - x.detach()).flatten(1) @ torch.linspace(-1, 1, 64)
        return torch.stack([-rise, rise, -5 + 0 * rise, -5 + 0 * rise], 1)


def test_square_shows_what_a_false_gradient_hides() -> None:
    x = torch.full((40, 1, 8, 8), 0.45)
    images = Images.of(x, torch.zeros(40), tuple("0123"))
    threat = Threat(eps=0.1)
    tried = {n: t for n, t in probes.probes(images, threat, {}, seed=0).items() if n in ("PGD-20", probes.SQUARE)}
    scores = run_attacks(Gate(), images, threat, tried, execution=Execution(batch_size=20))
    assert scores.accuracy("PGD-20") > 0.9
    assert scores.accuracy(probes.SQUARE) < 0.1
    assert scores.metadata["outside_the_threat"] == {"clean": 0, "PGD-20": 0, probes.SQUARE: 0}


def test_repeated_keeps_the_first_success_and_first_found_an_iterate() -> None:
    net = Gate()
    x, y = torch.full((3, 1, 8, 8), 0.45), torch.zeros(3, dtype=torch.long)
    goes = iter([x.new_full(x.shape, 0.6), x.new_full(x.shape, 0.4)])
    found = probes.repeated(lambda *_: next(goes), 2)(net, x, y, Threat(eps=0.2))
    assert torch.equal(found, torch.full_like(x, 0.6))  # not the last go, which failed
    calls = []

    def seesaw(loss: object, x: Tensor, threat: Threat) -> Tensor:
        for value in (0.4, 0.6, 0.7, 0.4):
            calls.append(loss(torch.full_like(x, value).requires_grad_()))  # type: ignore[operator]
        return torch.full_like(x, 0.4)

    found = probes.first_found(seesaw)(net, x, y, Threat(eps=0.2))  # type: ignore[arg-type]
    assert torch.equal(found, torch.full_like(x, 0.6))
    assert [len(values) for values in calls] == [3] * 4


def test_the_command_line_shows_what_was_found(mmard: Run, tmp_path: Path, digits_teacher: Path) -> None:
    def checked_by(*words: object) -> tuple[str, dict[str, object]]:
        done = mmard("eval", digits_teacher, "threat.eps=0.1", *words)
        assert done.returncode == 0, done.stderr
        (file,) = digits_teacher.parent.glob("eval/*30*/scores.json")
        metadata = json.loads(file.read_text())
        file.unlink()
        return done.stdout, metadata

    said, metadata = checked_by("--attacks", "pgd-20", "--limit", 30)
    assert "note: whole-set  30 of 360 test images" in said
    assert "do: leave out --limit" in said
    assert [c["name"] for c in metadata["checks"]] == ["whole-set"]  # type: ignore[index, attr-defined]
    assert metadata["checked"]["how"] == "quick"  # type: ignore[index]
    said, metadata = checked_by("--attacks", "pgd-20", "--limit", 30, "--checks", "none")
    assert "nothing was checked" in said
    said, metadata = checked_by("--attacks", "pgd-20", "--limit", 30, "--checks", "full")
    assert metadata["checked"]["probed"] == 30  # type: ignore[index]


@pytest.mark.slow
def test_processes_find_the_same(mmard: Run, mmard_process: Run, tmp_path: Path) -> None:
    mmard("train", *QUICK, "train.batch_size=10", "--method", "pgd_at", "student=cnn-8-2", "out=run")
    found = []
    for count in (1, 2):
        words = ["--attacks", "pgd-20", "--limit", 30, "--batch-size", 11, "--checks", "full", "threat.eps=0.04"]
        done = mmard_process("eval", "run", *words, f"engine.devices={count}", "engine.accelerator=cpu", timeout=300)
        assert done.returncode == 0, done.stderr
        (file,) = tmp_path.glob("run/eval/*/scores.json")
        metadata = json.loads(file.read_text())
        found.append((metadata["checks"], metadata["outside_the_threat"], Scores.load(file.parent).correct.tolist()))
        file.unlink()
    assert found[0] == found[1]
