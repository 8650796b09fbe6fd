"""Attacks on a model without gradients, quantised or exported, by way of its float surrogate.

Three ways, and a sample counts as right only if it is right under all of them:
transfer: the attack on the float surrogate, its images shown to the runtime (after each of AutoAttack's four);
through: straight through the runtime, its values, the surrogate's gradients (BPDA, Athalye et al., 2018, arXiv 1802.00420,
    section 4.1);
Square: queries of the runtime alone.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mmard.core.threat import Threat
from mmard.core.views import Predict
from mmard.evaluation.suite import AttackSpec, choose_attacks, suite, unpruned
from mmard.utils.errors import MmardError

TRANSFER, THROUGH, SQUARE = "transfer", "through", "Square"
USUAL = {TRANSFER: ("PGD-20", "C&W", "AutoAttack"), THROUGH: ("PGD-20", "C&W", "AutoAttack-quick")}
HOW = {
    TRANSFER: "made on the float surrogate",
    THROUGH: "straight through, values of the runtime, gradients of the float surrogate",
}


class _Through(torch.autograd.Function):
    """Straight-through logits: the runtime's values forward, the gradient handed to the surrogate's logits backward."""

    @staticmethod
    def forward(ctx: Any, surrogate: Tensor, runtime: Tensor) -> Tensor:
        return runtime.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def straight_through(runtime: Predict, surrogate: Predict) -> Predict:
    """Combine the runtime's logits (B, K) of x (B, C, H, W) with the surrogate's gradient (BPDA)."""

    def predict(x: Tensor) -> Tensor:
        values = runtime(x)
        return _Through.apply(surrogate(x), values) if x.requires_grad and torch.is_grad_enabled() else values  # type: ignore[no-untyped-call]

    return predict


def exported_suite(surrogate: Predict | None, batch_size: int = 500, seed: int = 0) -> dict[str, AttackSpec]:
    """Return the attacks on an exported model by name: ``transfer-PGD-20``, ``through-C&W``, ``Square`` and so on.

    Args:
        surrogate: the float network, held still in evaluation mode; None: Square is all that is left.
    """
    whole = suite(batch_size, seed)
    square = whole.pop(SQUARE)
    specs = (
        {}
        if surrogate is None
        else {f"{way}-{name}": _by(way, surrogate, name, t) for way in HOW for name, t in whole.items()}
    )
    alone = "" if surrogate is not None else "; no float surrogate: this alone proves little"

    def detail(threat: Threat) -> str:
        return f"the runtime alone, {square.detail(threat)}{alone}"

    return specs | {SQUARE: replace(square, detail=detail, usual=True)}


def _by(way: str, surrogate: Predict, name: str, spec: AttackSpec) -> AttackSpec:
    def asks(runtime: Predict) -> Predict:
        return surrogate if way == TRANSFER else straight_through(runtime, surrogate)

    def detail(threat: Threat) -> str:
        return f"{HOW[way]}: {spec.detail(threat)}"

    if way == TRANSFER:
        # the last wrong iterate lies further beyond the surrogate's boundary than the first, and carries over better
        (spec,) = unpruned({name: spec}).values()
    return replace(spec, asks=asks, lent=surrogate, detail=detail, usual=name in USUAL[way])


def way_of(name: str) -> str:
    """Return how an attack on an exported model begins, ``transfer-`` or ``through-``; empty for any other."""
    return next((f"{way}-" for way in HOW if name.startswith(f"{way}-")), "")


def choose_exported(
    names: str | None, specs: Mapping[str, AttackSpec], protocol: str = "standard"
) -> dict[str, AttackSpec]:
    """Choose attacks on an exported model by name; a plain name such as ``pgd-20`` means both of its ways.

    Raises:
        MmardError: for an unknown name, or one that needs the surrogate where there is none.
    """
    if names is None:
        return choose_attacks(None, specs, protocol)
    known, plain = {_key(name) for name in specs}, {_key(name) for name in suite() if name != SQUARE}
    words: list[str] = []
    for word in names.split(","):
        both = [f"{way}-{word.strip()}" for way in HOW]
        if known == {_key(SQUARE)} and plain & {_key(word), *(_key(word).removeprefix(f"{way}-") for way in HOW)}:
            raise MmardError(
                f"{word.strip()} needs the model's float surrogate; name it: --surrogate RUN, or --attacks square"
            )
        words += [way for way in both if _key(way) in known] or [word]
    return choose_attacks(",".join(words), specs, protocol)


def _key(name: str) -> str:
    return name.strip().lower().replace("&", "")
