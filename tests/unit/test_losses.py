"""Losses where the answer is known without a computer."""

import math

import pytest
import torch

from mmard import losses


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
