"""The door between a network and whoever asks it: what comes out is logits, and the images stay as they are."""

from collections.abc import Callable

import pytest
import torch
from helpers import blobs
from torch import Tensor, nn

from mmard import MmardError, Threat
from mmard.evaluation.checks.messages import CheckError
from mmard.evaluation.checks.run import evaluate_with_checks
from mmard.evaluation.loop import Execution
from mmard.evaluation.run import run_attacks
from mmard.evaluation.suite import choose_attacks, suite

THREAT = Threat(eps=0.1)


class Net(nn.Module):
    """A linear classifier of the blobs, near the truth, with something before it and something after it."""

    def __init__(self, before: Callable[[Tensor], Tensor], after: Callable[[Tensor], object] = lambda z: z) -> None:
        super().__init__()
        images = blobs(200)
        x, y, _ = images.batch(slice(None))
        means = torch.stack([x[y == k].flatten(1).mean(0) for k in range(4)])
        self.w, self.before, self.after = nn.Parameter(means.T.contiguous()), before, after
        self.bias = -0.5 * means.square().sum(1)

    def forward(self, x: Tensor) -> object:
        return self.after(4 * (self.before(x).flatten(1) @ self.w + self.bias))


def same(x: Tensor) -> Tensor:
    return x


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_logits_of_any_precision_have_the_verdicts_of_the_same_numbers_in_float32(dtype: torch.dtype) -> None:
    images, specs, threat = blobs(8), choose_attacks("fgsm,autoattack-quick", suite()), Threat(eps=0.24)
    given = run_attacks(Net(same, lambda z: z.to(dtype)), images, threat, specs)
    # what float32 makes of the same rounded numbers
    right = run_attacks(Net(same, lambda z: z.to(dtype).float()), images, threat, specs)
    assert torch.equal(given.correct, right.correct)
    assert given.accuracy("AutoAttack-quick") < given.accuracy("clean") == 1


def through_data(x: Tensor) -> Tensor:
    x.data[:, 0, 0, 0] = 0.5  # torch does not count this write
    return x


@pytest.mark.parametrize("checks", ["quick", "none"])
@pytest.mark.parametrize(
    "before",
    [lambda x: x.sub_(0.3).div_(0.4), nn.ReLU(inplace=True), lambda x: x.clamp_(0, 1), through_data],
    ids=["normalisation", "first layer", "no change of values", "behind torch"],
)
def test_a_model_that_writes_into_its_input_is_named_before_all_else(
    before: Callable[[Tensor], Tensor], checks: str
) -> None:
    with pytest.raises(CheckError, match=r"changes its input.*\(x - mean\) / std") as e:
        evaluate_with_checks(Net(before), blobs(24), THREAT, choose_attacks("pgd-20", suite()), checks=checks)
    assert e.value.check.name == "input"


@pytest.mark.parametrize("checks", ["quick", "none"])
@pytest.mark.parametrize(
    ("after", "words"),
    [
        (lambda z: (z, z), "gives a tuple"),
        (lambda z: {"logits": z}, "gives a dict"),
        (lambda z: z[:, 0], r"gives \(16,\).*torch.stack\(\[torch.zeros_like\(z\), z\], 1\)"),
        (lambda z: z[:, :1], r"gives \(16, 1\).*one logit z of a sigmoid"),
        (lambda z: torch.cat([z, z[:, :2]], 1), "16 images of 4 classes: not a fit"),
        (lambda z: z[:8], r"gives \(8, 4\) for 16 images"),
        (lambda z: z.long(), "numbers of kind int64"),
        (lambda z: z.to(torch.complex64), "numbers of kind complex64"),
    ],
)
def test_what_is_no_logits_is_one_line_whatever_is_checked(
    after: Callable[[Tensor], object], words: str, checks: str
) -> None:
    with pytest.raises(CheckError, match=words) as e:
        evaluate_with_checks(Net(same, after), blobs(24), THREAT, choose_attacks("fgsm", suite()), checks=checks)
    assert e.value.check.name == "classifier"
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("size", [-1, 0, True, 2.5])
def test_a_batch_without_images_is_refused(size: int) -> None:
    for judge in (evaluate_with_checks, run_attacks):
        with pytest.raises(MmardError, match=r"batch_size is .* expected a whole number, at least 1"):
            judge(Net(same), blobs(8), THREAT, choose_attacks("fgsm", suite()), execution=Execution(batch_size=size))  # type: ignore[operator]


def test_an_evaluation_in_inference_mode_says_so() -> None:
    with torch.inference_mode(), pytest.raises(MmardError, match=r"torch\.inference_mode"):
        run_attacks(Net(same), blobs(8), THREAT, choose_attacks("fgsm", suite()))
