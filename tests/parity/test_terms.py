"""Every term of the vocabulary against its formula in plain Python, on random logits."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmard import losses
from mmard.core.objective import Objective
from mmard.core.views import Models, Views
from mmard.terms import BOUNDARIES, SCENARIOS, TRIANGLES

from . import naive

pytestmark = pytest.mark.figures

TERMS: dict[str, Objective] = {**SCENARIOS, **BOUNDARIES, **TRIANGLES}
SIZES = [(4, 3), (4, 7), (10, 5), (10, 20)]  # classes, batch: 20 samples are more than the 16 neighbours
PARAMS: dict[str, list[dict[str, float]]] = {
    "soft_nat_hot": [{"tau": 1.0}, {"tau": 2.0}],
    "soft_adv_hot": [{"tau": 1.0}, {"tau": 4.0}],
    "soft_moved_hot": [{"tau": 1.0}, {"tau": 4.0}],
    "contrast": [{"tau": 0.1}, {"tau": 1.0}],
}
BY_BATCH = {"joint", "mapping"}  # one number for the batch; per sample only its share, whose mean it is
# float32: in units of the batch's greatest value; τ² KL at τ = 30 multiplies the rounding of a small KL by 900
FLOAT32 = {"soft_adv_hot": 2e-4, "soft_moved_hot": 2e-4}

Logits = dict[str, Tensor]


def logits(classes: int, batch: int, seed: int = 0, scale: float = 2.0) -> Logits:
    """Logits of two networks at two points; what is said at x' is near what is said at x."""
    draw = torch.Generator().manual_seed(1000 * classes + 10 * batch + seed)
    s, t, ds, dt = scale * torch.randn(4, batch, classes, dtype=torch.float64, generator=draw)
    return {"s_nat": s, "s_adv": s + 0.5 * ds, "t_nat": t, "t_adv": t + 0.5 * dt}


def labels(classes: int, batch: int) -> Tensor:
    """Each class in turn."""
    return torch.arange(batch) % classes


def views(z: Logits, y: Tensor, dtype: torch.dtype = torch.float64) -> Views:
    """Views under networks that say ``z``."""
    nat, adv = torch.zeros(len(y), 1, 2, 2, dtype=dtype), torch.ones(len(y), 1, 2, 2, dtype=dtype)
    at = {key: value.to(dtype) for key, value in z.items()}
    models = {
        "student": lambda x: at["s_nat"] if x is nat else at["s_adv"],
        "teacher": lambda x: at["t_nat"] if x is nat else at["t_adv"],
    }
    return Views.of(nat, y, torch.arange(len(y)), Models(models)).moved_to(adv)


def both(name: str, z: Logits, y: Tensor, dtype: torch.dtype = torch.float64, **params: float) -> tuple[Any, Any]:
    """What mmard says and what the formula says; per sample, or the batch's mean where the term is one number."""
    got = TERMS[name].given(**params).total(views(z, y, dtype)).to(torch.float64).numpy()
    seen = naive.Seen.of(z["s_nat"], z["s_adv"], z["t_nat"], z["t_adv"], y)
    return (got.mean() if name in BY_BATCH else got), np.array(naive.TERMS[name](seen, **params))


def test_no_term_is_left_out() -> None:
    """The naive table and the vocabulary have the same names, so every parametrised test below is complete."""
    assert set(TERMS) == set(naive.TERMS)


@pytest.mark.parametrize(("classes", "batch"), SIZES)
@pytest.mark.parametrize("name", TERMS)
def test_term_is_its_formula(name: str, classes: int, batch: int) -> None:
    """Float64, default parameters: equal to 1e-9."""
    got, expected = both(name, logits(classes, batch), labels(classes, batch))
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "params"), [(name, p) for name, several in PARAMS.items() for p in several])
def test_term_with_another_temperature(name: str, params: dict[str, float]) -> None:
    """The temperature enters where the formula has it, and matters."""
    z, y = logits(10, 6), labels(10, 6)
    got, expected = both(name, z, y, **params)
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)
    assert not np.allclose(got, both(name, z, y)[0], rtol=1e-3)


@pytest.mark.parametrize(("classes", "batch"), SIZES)
@pytest.mark.parametrize("name", TERMS)
def test_term_in_float32(name: str, classes: int, batch: int) -> None:
    """Single precision, as in training: equal to 1e-5 of the batch's greatest value."""
    z = {key: value.float().double() for key, value in logits(classes, batch).items()}
    got, expected = both(name, z, labels(classes, batch), torch.float32)
    np.testing.assert_allclose(got, expected, rtol=0, atol=FLOAT32.get(name, 1e-5) * np.abs(expected).max())


@pytest.mark.parametrize("name", TERMS)
def test_term_of_confident_networks(name: str) -> None:
    """Logits tens of nats apart, as robust teachers never but over-trained students do say: still to 1e-9."""
    got, expected = both(name, logits(10, 8, scale=25.0), labels(10, 8))
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_term_and_gradient_are_finite_where_softmax_underflows(name: str, dtype: torch.dtype) -> None:
    """Logits hundreds of nats apart: probabilities that are 0 in this precision spoil neither value nor gradient."""
    z = {key: value.to(dtype).requires_grad_() for key, value in logits(4, 6, scale=300.0).items()}
    value = TERMS[name].total(views(z, labels(4, 6), dtype))
    value.sum().backward()
    assert value.isfinite().all()
    assert all(leaf.grad is None or leaf.grad.isfinite().all() for leaf in z.values())


PURE: dict[str, tuple[Callable[..., Tensor], Callable[..., Any]]] = {
    "entropy": (lambda a, b, y: losses.entropy(a), lambda a, b, y: naive.each(naive.entropy, a)),
    "margin": (lambda a, b, y: losses.margin(a, y), lambda a, b, y: naive.each(naive.margin, a, y)),
    "ce": (lambda a, b, y: losses.ce(a, y), lambda a, b, y: naive.each(naive.ce, a, y)),
    "kl": (lambda a, b, y: losses.kl(a, b, 3.0), lambda a, b, y: naive.each(lambda p, q: naive.kl(p, q, 3.0), a, b)),
    "js": (lambda a, b, y: losses.js(a, b), lambda a, b, y: naive.each(naive.js, a, b)),
    "contrast": (lambda a, b, y: losses.contrast(a, b, 0.2), lambda a, b, y: naive.info_nce(a, b, 0.2)),
    "joint": (lambda a, b, y: losses.joint(a, b), lambda a, b, y: naive.joint_distribution(a, b)),
    "information": (
        lambda a, b, y: losses.mutual_information(a, b).mean(),
        lambda a, b, y: naive.mutual_information(a, b),
    ),
    "triangle": (lambda a, b, y: losses.triangle_angles(a, b), lambda a, b, y: naive.each(naive.triangle_angles, a, b)),
    "relations": (lambda a, b, y: losses.relation_angles(a, 3), lambda a, b, y: naive.relation_angles(a, 3)),
}


@pytest.mark.parametrize("name", PURE)
def test_loss_is_its_formula(name: str) -> None:
    """The pure losses one by one, with arguments that are not the terms' own; also what a term sums away."""
    z, y = logits(4, 6, seed=1), labels(4, 6)
    code, formula = PURE[name]
    got = code(z["s_nat"], z["t_adv"], y).numpy()
    np.testing.assert_allclose(got, formula(z["s_nat"].tolist(), z["t_adv"].tolist(), y.tolist()), rtol=1e-9, atol=1e-9)


def test_mutual_information_of_perfect_and_of_independent_predictions() -> None:
    """Two numbers known by thought: log K where both say the same certain classes, 0 where one says nothing."""
    certain = 60.0 * torch.eye(4, dtype=torch.float64)
    assert losses.mutual_information(certain, certain).mean().item() == pytest.approx(np.log(4), abs=1e-9)
    assert losses.mutual_information(certain, 0 * certain).mean().item() == pytest.approx(0, abs=1e-9)
