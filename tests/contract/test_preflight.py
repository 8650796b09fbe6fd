"""Before any robust number: what must hold, and one line where it does not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import Run, blobs, small_net
from torch import Tensor, nn

import mmard
from mmard import MmardError, Threat
from mmard.attacks.autoattack import AutoAttack
from mmard.data.images import Images
from mmard.evaluation.checks.gradients import check_slopes
from mmard.evaluation.checks.messages import AFTER, ALL, BEFORE, Check, CheckError, as_dicts
from mmard.evaluation.checks.preflight import check_logits, check_pixels, check_threat, preflight
from mmard.evaluation.checks.run import check_set, evaluate_with_checks, how_to_check
from mmard.evaluation.eot import Averaged
from mmard.evaluation.run import run_attacks
from mmard.evaluation.suite import AttackSpec, choose_attacks, suite
from mmard.models.weights import save_weights
from mmard.utils.files import write_json

pytestmark = pytest.mark.figures

THREAT = Threat(eps=0.1)
FGSM = choose_attacks("fgsm", suite())
CW = choose_attacks("cw", suite())


class Linear(nn.Module):
    """Class k's logit is ⟨w_k, x⟩: gradients known in closed form."""

    def __init__(self, scale: float = 1.0, classes: int = 4) -> None:
        super().__init__()
        self.scale = scale
        self.w = nn.Parameter(torch.randn(64, classes, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * (x.flatten(1) @ self.w)


class Says(nn.Module):
    """Whatever it is told to."""

    def __init__(self, say: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.say = say

    def forward(self, x: Tensor) -> object:
        return self.say(x)


def before(model: nn.Module, images: Images | None = None, specs: dict[str, AttackSpec] = CW) -> list[Check]:
    return preflight(model.eval(), images or blobs(40), THREAT, specs)


def refused(model: nn.Module, images: Images | None = None, specs: dict[str, AttackSpec] = CW) -> str:
    with pytest.raises(CheckError) as e:
        before(model, images, specs)
    assert "\n" not in str(e.value)
    assert str(e.value).startswith(f"check {e.value.check.name}: ")
    return e.value.check.name


@pytest.mark.parametrize("model", [Linear(), small_net(), small_net(name="cnn-2-1", seed=3)])
def test_an_honest_model_passes_in_silence_trained_or_not(model: nn.Module) -> None:
    assert before(model) == []


@pytest.mark.parametrize("n", [1, 2, 3, 150])
def test_however_many_images_there_are(n: int) -> None:
    assert before(Linear(), blobs(n)) == []


@pytest.mark.parametrize(
    ("say", "name"),
    [
        (lambda x: (x.new_zeros(len(x), 4),), "classifier"),
        (lambda x: {"logits": x}, "classifier"),
        (lambda x: x, "classifier"),
        (lambda x: x.flatten(1) @ torch.ones(7, 4), "classifier"),
        (lambda x: x.new_full((len(x), 4), float("nan")), "finite"),
    ],
    ids=["a tuple", "a dict", "images", "another architecture", "NaN"],
)
def test_what_is_no_classifier_is_one_line(say: Callable[[Tensor], object], name: str) -> None:
    assert refused(Says(say)) == name


def test_one_row_of_positive_logits_is_no_probability_and_one_that_adds_up_to_1_is() -> None:
    row = torch.tensor([[0.31, 0.02, 0.19]])
    for honest in (row, row.expand(9, -1), torch.tensor([[3.0, 0.0, 1.0]])):
        check_logits(honest)
    for n in (1, 9):
        with pytest.raises(CheckError, match="add up to 1: probabilities"):
            check_logits(torch.rand(n, 10, generator=torch.Generator().manual_seed(0)).softmax(1))
    with pytest.raises(CheckError, match="votes"):
        check_logits(torch.eye(3)[[0, 1, 0, 2]])


def test_what_is_no_model_and_zero_images_are_one_line() -> None:
    with pytest.raises(MmardError, match="got a function, expected a model"):
        evaluate_with_checks(lambda x: x, blobs(8), THREAT, FGSM)  # type: ignore[arg-type]
    none = blobs(8).take(torch.tensor([], dtype=torch.long))
    for judge in (evaluate_with_checks, run_attacks):
        with pytest.raises(MmardError, match="0 images"):
            judge(small_net(), none, THREAT, FGSM)


@pytest.mark.parametrize(("eps", "words"), [(0.6, "makes any image grey"), (8 / 255 / 255, "divided by 255 twice")])
def test_a_radius_that_cannot_be_meant(eps: float, words: str) -> None:
    (check,) = check_threat(Threat(eps=eps), 64)
    assert (check.name, check.level) == ("threat", "warning")
    assert words in check.said


def test_usual_radii_are_not_remarked() -> None:
    usual = [Threat(eps=e) for e in (1 / 255, 8 / 255, 0.3)] + [Threat(eps=e, norm="l2") for e in (0.5, 2)]
    assert [check for threat in usual for check in check_threat(threat, 3 * 32 * 32)] == []
    assert "grey" in check_threat(Threat(eps=14, norm="l2"), 3 * 32 * 32)[0].said
    assert "each figure is the clean one" in check_threat(Threat(eps=0), 64)[0].said


def test_pixels_of_another_range() -> None:
    images = blobs(8)
    with pytest.raises(CheckError) as e:
        check_pixels(replace(images, pixels=images.pixels // 255))
    assert e.value.check.name == "pixels"
    assert [c.level for c in check_pixels(replace(images, pixels=images.pixels // 16))] == [
        "warning"
    ]  # 0 to 16 of digits
    assert check_pixels(images) == []


def test_a_constant_model_is_a_warning_for_its_figures_are_true() -> None:
    (check,) = before(Says(lambda x: x.new_tensor([[0.0, 1, 2, 3]]).expand(len(x), -1)))
    assert (check.name, check.level) == ("constant", "warning")


def test_an_attack_that_moves_an_image_within_eps_0() -> None:
    moving = {"mine": AttackSpec(lambda predict, x, y, threat: x + 0.01, lambda _: "mine")}
    assert refused(Linear(), specs=moving) == "eps-0"


def test_one_image_in_a_batch_that_depends_on_the_others() -> None:
    net = Linear()
    assert refused(Says(lambda x: net(x) + 0.1 * net(x).mean(0))) == "batch"


def test_the_state_of_a_model_that_counts_shows() -> None:
    class Counting(Linear):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(x) + 0.5 * (self.calls % 2)

    assert "randomised" in {check.name for check in before(Counting())}


def test_the_gradient_of_a_linear_model_is_true_and_half_of_it_is_not() -> None:
    x, y, _ = blobs(40).batch(slice(None))
    assert check_slopes(Linear(), x, y, THREAT, CW) == []

    def wrong(x: Tensor) -> Tensor:
        z = Linear()(x)
        return 0.3 * z + 0.7 * z.detach()  # the change is 1 / 0.3 of what the gradient says

    (check,) = check_slopes(Says(wrong), x, y, THREAT, CW)
    assert (check.name, check.level) == ("masked-gradients", "warning")  # it still leads where it should: no stop
    assert "100%" in check.said


@pytest.mark.parametrize(("scale", "speaks"), [(1e-4, True), (0.1, False), (1.0, False), (1e3, True)])
def test_scale_speaks_where_cross_entropy_cannot_work(scale: float, speaks: bool) -> None:
    assert [check.name for check in before(Linear(scale))] == (["scale"] if speaks else [])
    if scale == 1e3:
        assert refused(Linear(scale), specs=FGSM) == "scale"  # no attack by a margin would show it
    if scale == 1e-4:  # the sign of the gradient is there yet: no attack by a margin finds more
        assert [check.level for check in before(Linear(scale), specs=FGSM)] == ["warning"]


def test_the_mean_over_draws_has_the_mean_of_the_gradients() -> None:
    net, x = Linear(), torch.rand(3, 1, 8, 8, requires_grad=True)
    torch.manual_seed(0)
    weights = [torch.rand(()) for _ in range(5)]
    torch.manual_seed(0)
    said = Averaged(Says(lambda x: torch.rand(()) * net(x)), draws=5)(x)
    torch.testing.assert_close(said, torch.stack(weights).mean() * net(x))
    (got,) = torch.autograd.grad(said[:, 0].sum(), x)
    torch.testing.assert_close(got.flatten(1), (torch.stack(weights).mean() * net.w[:, 0]).expand(3, -1))


def test_a_part_of_the_test_set_is_noted_with_both_numbers() -> None:
    scores = evaluate_with_checks(small_net(), blobs(20), THREAT, FGSM, known=check_set(20, 1000))
    assert [(c["level"], c["said"]) for c in scores.metadata["checks"]] == [("note", "20 of 1,000 test images")]


def test_which_checks_run_where_nobody_says() -> None:
    assert [how_to_check(None, specs) for specs in ({}, FGSM, suite())] == ["none", "quick", "full"]
    with pytest.raises(MmardError, match="'all' are not known; expected one of full, quick, none"):
        how_to_check("all", FGSM)


@pytest.mark.parametrize("classes", [4, 5, 12])
def test_autoattack_aims_at_no_more_classes_than_there_are(classes: int) -> None:
    package = AutoAttack().package(Linear(classes=classes), torch.zeros(1, 1, 8, 8), THREAT)
    aims = {package.apgd_targeted.n_target_classes, package.fab.n_target_classes}
    assert aims == {min(9, classes - 1)}


def test_the_gravest_comes_first_and_every_check_is_documented() -> None:
    found = [Check("whole-set", "note", "a"), Check("norm", "error", "b"), Check("order", "warning", "c")]
    assert [c["level"] for c in as_dicts(found)] == ["error", "warning", "note"]
    assert set(as_dicts(found)[0]) == {"name", "level", "said", "means", "do"}
    page = (Path(mmard.__file__).parents[2] / "docs/evaluation.md").read_text()
    assert [name for name in ALL if f"- **{name}** looks at" not in page] == []
    assert not BEFORE.keys() & AFTER.keys()


def test_weights_that_name_no_threat_need_one(mmard: Run, digits_teacher: Path) -> None:
    done = mmard("eval", digits_teacher, "--attacks", "fgsm")
    assert done.returncode == 2
    assert "check threat: neither the weights nor the command say which" in done.stderr
    assert mmard("eval", digits_teacher, "--attacks", "fgsm", "threat.eps=0.1", "--limit", 20).returncode == 0
    assert mmard("eval", digits_teacher, "--attacks", "none").returncode == 0


def test_bad_input_is_one_line(mmard: Run, tmp_path: Path, digits_teacher: Path) -> None:
    save_weights(tmp_path / "wide.safetensors", small_net(classes=10, name="cnn-8-3"))
    card = {"architecture": "cnn-4-3", "classes": 10, "channels": 1, "file": "wide.safetensors"}
    write_json(tmp_path / "card.json", card)
    (tmp_path / "notes.safetensors").write_text("not weights")
    cases = [
        (["card.json", "data.name=digits", "threat.eps=0.1"], "cnn-4-3"),
        (["notes.safetensors"], "no whole safetensors file"),
        ([digits_teacher, "threat.eps=8"], "is it in 255ths"),
        ([digits_teacher, "threat.eps=0.1", "--checks", "some"], "expected one of full, quick, none"),
    ]
    for words, said in cases:
        done = mmard("eval", *words, "--attacks", "fgsm")
        assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1), done.stderr
        assert said in done.stderr
