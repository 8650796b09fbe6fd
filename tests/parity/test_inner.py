"""Cheaper inner processes against the same written naively, one sample at a time."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mmard import MmardError, Pgd, Threat
from mmard.attacks.inner.adaptive import EarlyStop, WarmStart
from mmard.attacks.inner.one_step import N_FGSM, RS_FGSM, OneStep
from mmard.attacks.pgd import Loss
from mmard.core.ascent import Ascent
from mmard.core.views import Frame, Models, Views
from mmard.data.augment import sample_crop
from mmard.methods import mmard, rslad
from mmard.methods.standard import standard
from mmard.terms import soft_adv
from mmard.training.step import make_example

from . import nets

pytestmark = pytest.mark.figures

STEPS = 6


def batch(count: int = 40) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(7)
    x = torch.rand(count, 1, 4, 4, dtype=torch.float64, generator=draw)
    return x, torch.randint(0, nets.CLASSES, (count,), generator=draw)


def kl(target: Tensor, of: Tensor) -> Tensor:
    p, q = target.softmax(-1), of.softmax(-1)
    return (p * (p / q).log()).sum()


def alone(x: Tensor, y: Tensor, at: str, every: int, threat: Threat, steps: int = STEPS) -> tuple[Tensor, int]:
    """One image (1, C, H, W): x' and the passes that it took, by the definition. The boundary's gradient is held."""
    s, t = nets.student(), nets.teacher()
    x_adv, reuse_gradient, passes = x.clone(), torch.zeros_like(x), 0
    for step in range(steps):
        passes += 1
        z = x_adv.clone().requires_grad_()
        if step % every == 0:
            (reuse_gradient,) = torch.autograd.grad(kl(t(x), t(z)), z)
        (grad,) = torch.autograd.grad(kl(t(x), s(z)), z)
        if (s(z).argmax() != y) if at == "student" else (t(z).argmax() != t(x).argmax()):
            break
        x_adv = threat.project(x_adv + threat.eps / 4 * threat.steepest(grad + reuse_gradient), x)
    return x_adv, passes


@pytest.mark.parametrize("threat", [nets.WIDE, Threat(eps=1.5, norm="l2")])
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("at", ["teacher", "student"])
def test_early_stop_is_each_sample_attacked_alone_and_costs_no_more(at: str, every: int, threat: Threat) -> None:
    x, y = batch()
    s, t, rows = nets.student(), nets.teacher(), []
    if at == "student":  # half of them begin on the right side
        y = torch.where(torch.arange(len(y)) % 2 == 0, s(x).argmax(1), y)
    found, passes = zip(*(alone(x[i : i + 1], y[i], at, every, threat) for i in range(len(x))), strict=True)
    assert len(set(passes)) >= 3  # they stop at different steps, or nothing is shown here
    s.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    process = EarlyStop(pgd=Pgd(steps=STEPS, start="none"), at=at)  # type: ignore[arg-type]
    method = replace(mmard(rslad(), inner="drift", every=every, outer="none"), maximizer=process)
    views = Views.of(x, y, torch.arange(len(y)), Models({"student": s, "teacher": t}))
    x_adv = make_example(method, views, s, threat).adv.x
    torch.testing.assert_close(x_adv, torch.cat(found), rtol=1e-9, atol=1e-12)
    assert rows == [n for n in (sum(p > step for p in passes) for step in range(STEPS)) if n]


def test_the_teacher_costs_nothing_for_who_has_stopped_and_once_at_x() -> None:
    x, y = batch()
    s, t, rows = nets.student(), nets.teacher(), []
    passes = [alone(x[i : i + 1], y[i], "teacher", 1, nets.WIDE)[1] for i in range(len(x))]
    t.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    process = EarlyStop(pgd=Pgd(steps=STEPS, start="none"), at="teacher")
    views = Views.of(x, y, torch.arange(len(y)), Models({"student": s, "teacher": t}))
    make_example(replace(mmard(inner="drift", outer="none"), maximizer=process), views, s, nets.WIDE)
    assert rows == [len(x), *(n for n in (sum(p > step for p in passes) for step in range(STEPS)) if n)]


def test_some_rows_of_views_keep_what_is_known_and_forget_what_is_not_theirs() -> None:
    calls: list[int] = []
    t = nets.teacher()
    t.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    x, y = batch(6)
    v = Views.of(x, y, torch.arange(6) + 10, Models({"teacher": t}), 0.5, 4, sample_crop(x, "flip"))
    whole, mean = v.nat.teacher, v.nat.once("mean", lambda: v.nat.x.mean())
    rows = torch.tensor([4, 1])
    some = v.of_rows(rows)
    assert torch.equal(some.nat.teacher, whole[rows])
    assert calls == [6]
    assert some.nat.once("mean", lambda: some.nat.x.mean()) != mean
    assert torch.equal(some.y, y[rows])
    assert (some.index.tolist(), some.progress, some.epochs) == ([14, 11], 0.5, 4)
    assert some.frame is not None
    assert v.frame is not None
    assert torch.equal(some.frame(x[rows]), v.frame(x)[rows])
    assert some.adv is some.nat


def test_a_process_that_asks_more_says_so() -> None:
    x, _ = batch(2)
    with pytest.raises(MmardError, match="asks more than a loss, and got a function"):
        EarlyStop(pgd=Pgd(), at="student")(lambda x: x.flatten(1).sum(1), x, nets.WIDE)


def naive_single(name: str, x: np.ndarray, unit: np.ndarray, w: np.ndarray, eps: float) -> np.ndarray:
    """From the papers; ``unit`` is uniform in [0, 1), the gradient is w."""
    k, length = {"RS-FGSM": (1, 1.25), "N-FGSM": (2, 1)}[name]
    delta = k * eps * (2 * unit - 1)
    delta = np.minimum(np.maximum(x + delta, 0), 1) - x
    delta = delta + length * eps * np.sign(w)
    if name == "RS-FGSM":
        delta = np.minimum(np.maximum(delta, -eps), eps)
    return np.minimum(np.maximum(x + delta, 0), 1)


@pytest.mark.parametrize("process", [RS_FGSM, N_FGSM], ids=str)
def test_one_step_processes_are_those_of_the_papers(process: OneStep) -> None:
    x, eps = batch()[0], 0.1
    w = torch.linspace(-1, 1, nets.PIXELS, dtype=torch.float64).view(1, 1, 4, 4)
    torch.manual_seed(3)
    unit = torch.rand_like(x).numpy()
    torch.manual_seed(3)
    x_adv = process(lambda x: (x * w).flatten(1).sum(1), x, Threat(eps=eps))
    np.testing.assert_allclose(x_adv.numpy(), naive_single(process.name, x.numpy(), unit, w.numpy(), eps), atol=1e-12)
    farthest = (x_adv - x).abs().max().item()
    assert farthest == pytest.approx(eps) if process is RS_FGSM else 2 * eps < farthest <= 3 * eps


@pytest.mark.parametrize("process", [RS_FGSM, N_FGSM], ids=str)
def test_one_step_processes_are_for_linf(process: OneStep) -> None:
    with pytest.raises(MmardError, match="is for linf, the threat is l2"):
        process(lambda x: x.flatten(1).sum(1), batch()[0], Threat(eps=0.1, norm="l2"))


# ---- warm start -----------------------------------------------------------------------------------------------


class Climbs:
    """A process that writes down where it starts, and ends at x + ``delta``."""

    def __init__(self) -> None:
        self.start, self.delta = torch.empty(0), torch.empty(0)

    def init(self, loss: Loss, x: Tensor, threat: Threat) -> Tensor:
        return x.clone()

    def run(self, loss: Loss, x: Tensor, x_adv: Tensor, threat: Threat) -> Tensor:
        self.start = x_adv - x
        return x + self.delta

    __call__: Callable[[Loss, Tensor, Threat], Tensor]


def naive_move(delta: Tensor, frame: Frame, back: bool) -> Tensor:
    """Pixel by pixel: out[i, j] is the image's pixel (i + top − padding, j + left − padding), columns mirrored after."""
    out, width = torch.zeros_like(delta), delta.shape[3]
    for b in range(len(delta)):
        for i in range(delta.shape[2]):
            for j in range(width):
                row = i + int(frame.top[b]) - frame.padding  # type: ignore[attr-defined]
                column = j + int(frame.left[b]) - frame.padding  # type: ignore[attr-defined]
                j_seen = width - 1 - j if bool(frame.mirrored[b]) else j  # type: ignore[attr-defined]
                if 0 <= row < delta.shape[2] and 0 <= column < width:
                    here, there = (b, slice(None), i, j_seen), (b, slice(None), row, column)
                    out[there if back else here] = delta[here if back else there]
    return out


def views_of(x: Tensor, index: Tensor, frame: Frame | None = None) -> Ascent:
    v = Views.of(x, torch.zeros(len(x), dtype=torch.long), index, Models({"student": nn.Flatten()}), frame=frame)
    return Ascent(soft_adv, v)


def test_a_warm_start_is_the_last_perturbation_through_another_crop_and_flip() -> None:
    torch.manual_seed(0)
    process, threat, index = Climbs(), Threat(eps=0.5), torch.tensor([7, 2, 11, 5])
    warm = WarmStart(process)
    warm.make_room(12, torch.Size([2, 16, 16]))
    x = torch.full((4, 2, 16, 16), 0.5)
    first, second = sample_crop(x, "crop+flip"), sample_crop(x, "crop+flip")
    assert not torch.equal(first.top, second.top)  # type: ignore[arg-type]
    process.delta = (torch.rand_like(x) - 0.5).half().float()  # as it is kept
    warm(views_of(x, index, first), x, threat)
    assert torch.equal(process.start, torch.zeros_like(x))  # nothing is known of them yet
    warm.sync(lambda value: value)
    order = torch.tensor([3, 0, 2, 1])  # the next epoch mixes them anew
    known = naive_move(process.delta, first, back=True)[order]
    warm(views_of(x, index[order], second), x, threat)
    torch.testing.assert_close(process.start, naive_move(known, second, back=False), rtol=0, atol=1e-6)
    assert process.start.abs().max() > 0.4
    warm(views_of(x, torch.tensor([0, 1, 3, 4])), x, threat)
    assert torch.equal(process.start, torch.zeros_like(x))  # others start as the process does


@pytest.mark.parametrize("kind", ["none", "crop", "flip", "crop+flip"])
def test_back_is_the_adjoint_of_augmentation(kind: str) -> None:
    """⟨A u, v⟩ = ⟨u, Aᵀ v⟩."""
    u, v = torch.rand(2, 5, 3, 16, 16, dtype=torch.float64)
    frame = sample_crop(u, kind)
    torch.testing.assert_close((frame(u) * v).sum(), (u * frame.back(v)).sum())


def test_a_warm_start_in_the_ball_without_room_and_without_a_ball() -> None:
    x, index = torch.full((2, 1, 4, 4), 0.9), torch.arange(2)
    process = Climbs()
    process.delta = torch.full_like(x, 0.1)
    warm = WarmStart(process)
    warm(views_of(x, index), x, Threat(eps=0.1))
    assert warm.made == []  # outside of training there is no last epoch
    warm.make_room(2, x.shape[1:])
    warm(views_of(x, index), x, Threat(eps=0.1))
    warm.sync(lambda value: value)
    warm(views_of(x, index), x, Threat(eps=0.05))
    torch.testing.assert_close(process.start, torch.full_like(x, 0.05))
    assert torch.equal(warm(views_of(x, index), x, Threat(eps=0)), x)


def test_natural_training_has_nothing_to_change() -> None:
    assert standard().maximizer is None
