"""Every wrapper on every base: one step of the trainer's, or one line that says why not."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import blobs, small_net
from torch import Tensor

from mmard import Method, MmardError, Pgd, Threat
from mmard.api.build import method_of
from mmard.api.registry import build_method
from mmard.api.settings import read_settings
from mmard.attacks.inner.compose import Inner
from mmard.methods import (
    METHODS,
    adaad,
    adaiad,
    awp,
    ciard,
    fair,
    igdm,
    mmard,
    mtard,
    peeraid,
    pgd_at,
    rpat,
    rslad,
    waypoints,
)
from mmard.methods.fair import ClassWeights
from mmard.methods.igdm import PUBLISHED
from mmard.training.attack_state import prepare_attack
from mmard.training.engine import Engine
from mmard.training.schedule import Plan
from mmard.training.update import Update

pytestmark = pytest.mark.figures

WRAPPERS: dict[str, Callable[[Method], Method]] = {
    "mmard": mmard,
    "mmard, balanced, held": lambda base: mmard(base, inner="drift", balance=True, every=2),
    "igdm": igdm,
    "igdm, alpha given": lambda base: igdm(base, alpha=1.0),
    "fair": fair,
    "awp": lambda base: awp(base, gamma=0.05),
    "rpat": rpat,
    "waypoints": waypoints,
}
ADDS = {"mmard": {"contrast"}, "igdm": {"gradient_match"}, "rpat": {"perceived"}, "waypoints": {"follow"}}
BASES = sorted(METHODS.keys() - {"mmard", "igdm", "fair", "awp", "rpat", "waypoints"})
NATURAL = {"standard", "kd"}


def short(method: Method, **parts: Any) -> Method:
    """Its attack in two steps, changed as settings would."""
    if not isinstance(method.maximizer, Pgd):
        return method
    return replace(method, maximizer=Inner(**{"steps": 2, "step_size": 0.05, **parts}).of(method.maximizer, THREAT))


THREAT = Threat(eps=0.1)


def stepped(method: Method, progress: tuple[float, ...] = (0.5,)) -> tuple[Update, list[dict[str, Tensor]]]:
    """What steps on one batch say, and what they leave; all begins alike."""
    teachers = {name: small_net(seed=seed) for seed, name in enumerate(("teacher", "natural", "peer"), 5)}
    plan = Plan(epochs=10, batch_size=12, lr=0.05)
    update = Update(
        method=method,
        threat=THREAT,
        student=small_net(),
        teachers=teachers,
        plan=plan,
        engine=Engine(accelerator="cpu"),
        shape=torch.Size((1, 8, 8)),
    )
    update.student.train()
    prepare_attack(method, blobs(12), torch.device("cpu"))
    x, y, index = blobs(12).batch(slice(None))
    means = []
    for share in progress:
        torch.manual_seed(1)
        means.append(update(x, y, index, share))
    return update, means


def refusal(wrapper: str, base: str) -> str | None:
    """Why this wrapper does not go with this base."""
    if wrapper == "mmard" and base in NATURAL:
        return "mmard is about examples, and this base makes none"
    if wrapper in ("rpat", "waypoints") and base in NATURAL:
        return f"{wrapper} is about .* give one, such as base="
    if wrapper == "fair" and base in NATURAL:
        return "this base makes none; give one, such as base=ard"
    if wrapper.startswith("igdm") and base in NATURAL:
        return "this base makes no x'; give one, such as base=rslad"
    if wrapper == "igdm" and base not in PUBLISHED:
        return "igdm has no published alpha for this base"
    return None


@pytest.mark.parametrize("base", BASES)
def test_every_wrapper_on_every_base(base: str) -> None:
    """It trains, the base's terms in it and its own; or it is refused before anything runs."""
    own = stepped(short(METHODS[base]()))[1][0].keys()
    for name, wrap in WRAPPERS.items():
        why = refusal(name, base)
        if why is not None:
            with pytest.raises(MmardError, match=why) as told:
                wrap(METHODS[base]())
            assert "\n" not in str(told.value)
            continue
        update, (means,) = stepped(short(wrap(METHODS[base]())))
        assert means.keys() == own | ADDS.get(name.partition(",")[0], set()), name
        assert all(mean.isfinite() for mean in means.values()), name
        before = small_net().parameters()
        assert all((a != b).any() for a, b in zip(update.student.parameters(), before, strict=True) if a.dim() > 1), (
            name
        )


STACKS: dict[str, Callable[[Method], Method]] = {
    "mmard(igdm(fair()))": lambda base: mmard(igdm(fair(base), alpha=1.0), inner="drift"),
    "awp(mmard(igdm()))": lambda base: awp(mmard(igdm(base, alpha=1.0)), gamma=0.05),
    "fair(awp(mmard()))": lambda base: fair(awp(mmard(base), gamma=0.05)),
}


@pytest.mark.parametrize("stack", STACKS)
def test_wrappers_on_wrappers(stack: str) -> None:
    for build in (adaiad, mtard, ciard, peeraid):
        _, (means,) = stepped(short(STACKS[stack](build())))
        assert "contrast" in means
        assert all(mean.isfinite() for mean in means.values())


@pytest.mark.parametrize("base", BASES)
def test_a_move_of_no_size_changes_nothing(base: str) -> None:
    """AWP with gamma = 0 is its base to the bit, in weights and in all that terms carry, over steps of two epochs."""
    found = []
    for method in (METHODS[base](), awp(METHODS[base](), gamma=0.0)):
        update, means = stepped(short(method), progress=(0.0, 0.05, 0.1, 0.15))
        carried = [state for module in method.modules() for state in module.state_dict().values()]
        found.append((*update.student.state_dict().values(), *carried, *(m for mean in means for m in mean.values())))
    assert len(found[0]) == len(found[1])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


# ---- with parts of the inner process -------------------------------------------------------------------------------

PARTS: dict[str, dict[str, Any]] = {
    "stop at the teacher": {"stop_at": "teacher"},
    "stop at the student": {"stop_at": "student"},
    "warm start": {"warm_start": True},
    "all": {"stop_at": "student", "warm_start": True, "late": {"after": 0.4, "steps": 3}, "guard": 4},
}


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_stateful_methods_with_parts_of_the_inner_process(parts: dict[str, Any]) -> None:
    """State that is not of the attack moves as ever; steps of three epochs, early and late."""
    for base in (
        mtard(),
        ciard(),
        METHODS["b_mtard"](),
        METHODS["absld"](),
        mmard(adaad(), inner="drift", balance=True, every=2),
    ):
        method = short(base, **parts)
        _, steps = stepped(method, progress=(0.0, 0.05, 0.3, 0.5))
        assert all(mean.isfinite() for means in steps for mean in means.values())


@pytest.mark.parametrize("balance", [False, True])
@pytest.mark.parametrize("every", [1, 2])
def test_fair_counts_each_iterate_once_however_mmard_looks_at_them(balance: bool, every: int) -> None:
    """Two steps of an attack on twelve images are 24 iterates, balanced or held."""
    method = short(mmard(fair(rslad()), inner="drift", balance=balance, every=every))
    (state,) = (module for module in method.modules() if isinstance(module, ClassWeights))
    stepped(method)
    assert state.seen.tolist() == [6.0] * 4
    stepped(method, progress=(0.55,))
    assert state.seen.tolist() == [12.0] * 4


def test_fair_without_an_iterate_weighs_nothing() -> None:
    """A ball of no size has no iterates: classes stay alike, and the loss finite."""
    method = fair(pgd_at())
    (state,) = (module for module in method.modules() if isinstance(module, ClassWeights))
    update, _ = stepped(method)
    x, y, index = blobs(12).batch(slice(None))
    update.threat = Threat(eps=0.0)
    state.seen, state.right = torch.zeros(4), torch.zeros(4)
    assert update(x, y, index, 0.7)["hard_adv"].isfinite()
    assert state.weights.tolist() == [1.0] * 4


TOGETHER: dict[str, tuple[dict[str, Any], str | None]] = {
    "fair, warm": ({"method": "fair(rslad)", "attack.warm_start": True}, None),
    "fair, one step": ({"method": "fair(rslad)", "attack.kind": "n-fgsm"}, None),
    "ciard, stopping": ({"method": "ciard", "attack.stop_at": "teacher"}, None),
    "igdm, stopping": ({"method": "igdm(adaad)", "attack.stop_at": "student", "attack.warm_start": True}, None),
    "awp, all": ({"method": "awp(mmard(mtard), gamma=0.01)", "attack.stop_at": "student", "attack.guard": 5}, None),
    "fair, stopping": (
        {"method": "fair(rslad)", "attack.stop_at": "teacher"},
        "fair counts how many of all its iterates",
    ),
    "deep down": (
        {"method": "awp(mmard(igdm(fair(adaad)), balance=True, inner=drift))", "attack.stop_at": "student"},
        "fair counts how many of all its iterates are right; leave one of them out",
    ),
}


@pytest.mark.parametrize(("words", "why"), TOGETHER.values(), ids=TOGETHER)
def test_what_settings_put_together(words: dict[str, Any], why: str | None) -> None:
    settings = read_settings(None, words)
    if why is None:
        assert method_of(settings).outer
        return
    with pytest.raises(MmardError, match=why) as told:
        method_of(settings)
    assert "\n" not in str(told.value)


def test_a_term_over_the_batch_is_found_inside_a_balanced_one() -> None:
    """Early stops take samples out of the batch that such a term is over."""
    from mmard.terms import OVER_THE_BATCH, joint
    from mmard.terms.held_gradient import reuse_gradient
    from mmard.terms.normalised_gradient import normalise_gradient

    assert {term.name for term in normalise_gradient(reuse_gradient(joint, 2)).within()} & OVER_THE_BATCH == {"joint"}


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("saad(script_weights=true)", "[w = 5·(H(T(x')) − min)]"),
        ("saad_c(script_weights=true)", "0.2·(1−w/max w)·KL(T(x)‖S(x))"),
        ("saad_c(order=2)", "[w = H_2(T(x'))]"),
        ("awp(trades, begin=0.5)", "before they descend from 0.5 of the run on"),
        ("ciard(begin=50)", "learning rate 0.0001 from epoch 50 on"),
        ("ard(attack_in_train_mode=true)", "the student in training mode"),
        ("mmard(dgad, tau=0.5)", "KL(T\u0303(x)^0.5‖S(x)) [T(x)^0.5 wrong], KL(T\u0303(x')^0.5‖S(x'))"),
    ],
)
def test_a_method_prints_what_it_computes(method: str, said: str) -> None:
    assert said in str(build_method(method))
    if method.partition("(")[0] in METHODS and not method.startswith("mmard"):
        assert said not in str(build_method(method.partition("(")[0]))
