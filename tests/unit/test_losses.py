"""Losses where the answer is known without a computer."""

import math

import pytest
import torch

from mmard import losses

pytestmark = pytest.mark.figures


def logits_of(*rows: list[float]) -> torch.Tensor:
    """Logits whose softmax is these rows."""
    return torch.tensor(rows, dtype=torch.float64).clamp_min(1e-300).log()


def test_kl_is_zero_only_for_equal_predictions_and_has_a_direction() -> None:
    p, q = logits_of([0.5, 0.5]), logits_of([0.9, 0.1])
    assert losses.kl(p, p + 3).item() == pytest.approx(0, abs=1e-12)
    assert losses.kl(p, q).item() == pytest.approx(0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1))
    assert losses.kl(q, p).item() == pytest.approx(0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5))


def test_large_logits_do_not_underflow() -> None:
    far = torch.tensor([[1000.0, 0.0], [0.0, 1000.0]])
    assert losses.kl(far[:1], far[1:]).item() == pytest.approx(1000)
    assert losses.entropy(far).tolist() == [0, 0]


def test_margin_is_zero_on_the_boundary() -> None:
    assert losses.margin(torch.tensor([[2.0, 2.0, 1.0], [3.0, 1.0, 0.0]]), torch.tensor([0, 1])).tolist() == [0, -2]


def test_bounds_of_js_and_entropy() -> None:
    one_hot, other = logits_of([1, 0]), logits_of([0, 1])
    assert losses.js(one_hot, other).item() == pytest.approx(math.log(2))
    assert losses.entropy(logits_of([0.25] * 4)).item() == pytest.approx(math.log(4))


def test_mutual_information_where_it_is_known() -> None:
    """Equal one-hot predictions spread over K classes: log K. Independent ones: 0. A noisy bit: log 2 − H(p)."""
    same = logits_of(*torch.eye(4).tolist())
    assert losses.mutual_information(same, same).mean().item() == pytest.approx(math.log(4))
    a = logits_of([1, 0], [1, 0], [0, 1], [0, 1])
    b = logits_of([1, 0], [0, 1], [1, 0], [0, 1])
    assert losses.mutual_information(a, b).mean().item() == pytest.approx(0, abs=1e-12)
    flip = 0.1
    noisy = logits_of([1 - flip, flip], [flip, 1 - flip])
    entropy = -(flip * math.log(flip) + (1 - flip) * math.log(1 - flip))
    known = math.log(2) - entropy
    assert losses.mutual_information(logits_of([1, 0], [0, 1]), noisy).mean().item() == pytest.approx(known)


def test_the_bias_of_the_plug_in_estimate_is_as_documented() -> None:
    """Independent one-hot predictions, K = 10, B = 128: 0.2 nats too many."""
    draw = torch.Generator().manual_seed(0)
    one_hot = torch.eye(10, dtype=torch.float64).clamp_min(1e-300).log()
    values = [
        losses.mutual_information(*(one_hot[torch.randint(0, 10, (128,), generator=draw)] for _ in range(2)))
        .mean()
        .item()
        for _ in range(50)
    ]
    bias = sum(values) / len(values)
    assert bias == pytest.approx(0.2, abs=0.02)


def channel(n: int, classes: int, agree: float, soft: bool, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of a class and of what a symmetric channel leaves of it: one-hot, or 0.9 for the class on average."""
    torch.manual_seed(seed)
    z = torch.randint(classes, (n,))
    other = torch.where(torch.rand(n) < agree, z, (z + torch.randint(1, classes, (n,))) % classes)
    mean = torch.eye(classes, dtype=torch.float64) * (0.9 - 0.1 / (classes - 1)) + 0.1 / (classes - 1)
    hard = torch.eye(classes, dtype=torch.float64)
    a, b = (torch.distributions.Dirichlet(4 * mean[c]).sample() if soft else hard[c] for c in (z, other))
    return a.clamp_min(1e-300).log(), b.clamp_min(1e-300).log()


def known(classes: int, *agrees: float) -> float:
    """I of a uniform class and what symmetric channels in a row leave of it."""
    c = (1 + (classes - 1) * math.prod((classes * a - 1) / (classes - 1) for a in agrees)) / classes
    return math.log(classes) + c * math.log(c) + (1 - c) * math.log((1 - c) / (classes - 1))


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(("classes", "n"), [(10, 64), (50, 256)])
def test_strangers_share_no_corrected_information(soft: bool, classes: int, n: int) -> None:
    """The plug-in estimate gives strangers 0.2 nats and more; the corrected one 0, within its error."""
    plain, corrected = [], []
    for seed in range(12):
        a, b = channel(n, classes, 1 / classes, soft, seed)
        plain.append(losses.mutual_information(a, b).mean())
        corrected.append(losses.mutual_information(a, b, corrected=True).mean())
    assert torch.stack(plain).mean() > 0.2
    assert torch.stack(corrected).mean().item() == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize(("agree", "soft"), [(0.5, False), (0.5, True), (0.9, False), (0.9, True)])
def test_corrected_information_is_that_of_the_channel(agree: float, soft: bool) -> None:
    truth = known(10, agree, *((0.9, 0.9) if soft else ()))
    off = [
        losses.mutual_information(*channel(1000, 10, agree, soft, seed), corrected=True).mean() - truth
        for seed in range(10)
    ]
    assert torch.stack(off).mean().item() == pytest.approx(0, abs=0.03)


def test_corrected_information_keeps_the_ceiling_and_bears_one_class_only() -> None:
    same = logits_of(*torch.eye(4).tolist())
    assert losses.mutual_information(same, same, corrected=True).mean().item() == pytest.approx(math.log(4))
    alone = logits_of([1, 0], [1, 0])
    assert losses.mutual_information(alone, alone, corrected=True).mean().item() == pytest.approx(0, abs=1e-9)


def test_the_gradient_of_corrected_information_is_that_of_its_value() -> None:
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randn(8, 3, generator=draw, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda a, b: losses.mutual_information(a, b, corrected=True).mean(), (a, b))


@pytest.mark.parametrize(("truth", "n"), [(1.0, 256), (4.0, 2048), (8.0, 64)])
def test_info_nce_nears_the_information_of_normal_pairs_and_stays_below_log_b(truth: float, n: int) -> None:
    """Ten pairs of correlation ρ have I = −5 log(1 − ρ²); the optimal critic is log p(b|a)/p(b)."""
    rho = math.sqrt(1 - math.exp(-truth / 5))
    found = []
    for seed in range(5):
        torch.manual_seed(seed)
        a = torch.randn(n, 10, dtype=torch.float64)
        b = rho * a + math.sqrt(1 - rho**2) * torch.randn(n, 10, dtype=torch.float64)
        scores = b.square().sum(1) / 2 - torch.cdist(rho * a, b).square() / (2 * (1 - rho**2))
        found.append(math.log(n) - losses.info_nce(scores).mean().item())
    mean = sum(found) / len(found)
    assert mean < min(truth + 0.1, math.log(n))
    assert mean > 0.9 * min(truth, math.log(n))


def test_contrast_knows_pairs_from_strangers() -> None:
    logits = torch.randn(16, 5, generator=torch.Generator().manual_seed(0))
    paired = losses.contrast(logits, 3 * logits + 1, tau=0.1).mean()
    strangers = losses.contrast(logits, logits.roll(1, 0), tau=0.1).mean()
    assert paired < strangers
    assert losses.contrast(logits, torch.zeros_like(logits)).mean().item() == pytest.approx(math.log(16), rel=1e-5)


def test_mapping_is_zero_for_equal_joints() -> None:
    a, b = torch.randn(6, 4), torch.randn(6, 4)
    assert losses.scenario_mapping(a, b, a, b).mean().item() == pytest.approx(0, abs=1e-6)
    assert losses.scenario_mapping(a, b, b, a).mean().item() > 0


def test_angles_of_a_known_triangle_and_their_invariance() -> None:
    a, b = torch.tensor([[1.0, -1.0, 0.0]]), torch.tensor([[1.0, 1.0, -2.0]])  # a right angle at the origin
    cosines = losses.triangle_angles(a, b)[0]
    assert cosines[0].item() == pytest.approx(0, abs=1e-6)
    assert torch.acos(cosines).sum().item() == pytest.approx(math.pi, rel=1e-5)
    torch.testing.assert_close(losses.triangle_angles(5 * a + 2, 5 * b - 1)[0], cosines)


def test_relations_do_not_change_with_scale_or_shift() -> None:
    logits = torch.randn(5, 3)
    angles = losses.relation_angles(logits)
    assert angles.shape == (5, 4, 4)
    torch.testing.assert_close(losses.relation_angles(2 * logits + 7), angles)
    torch.testing.assert_close(angles.diagonal(dim1=1, dim2=2), torch.ones(5, 4))
