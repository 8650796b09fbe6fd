"""The suite of attacks of an evaluation by name, and the choice among them."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from mmard.attacks.autoattack import WHOLE, AutoAttack
from mmard.attacks.cw import cw
from mmard.attacks.pgd import Pgd, untargeted
from mmard.attacks.square import Square
from mmard.core.method import Attack
from mmard.core.threat import Threat, in_255ths
from mmard.core.views import Predict
from mmard.evaluation.scores import CLEAN
from mmard.utils.errors import MmardError, Note, unknown


@dataclass(frozen=True)
class AttackSpec:
    """An attack with the line that describes it.

    Attributes:
        usual: run by default, where no attacks are named.
        scale_free: its loss does not depend on the scale of the logits.
        asks: makes, of the model, the network that is attacked in its place; verdicts stay the model's. None: the model.
        lent: the network whose gradients are used for a model without; None: none is.
    """

    attack: Attack
    detail: Callable[[Threat], str]
    usual: bool = True
    scale_free: bool = False
    asks: Callable[[Predict], Predict] | None = None
    lent: Predict | None = None


NO_ATTACK = AttackSpec(lambda _predict, x, _y, _threat: x, lambda _: "no attack")


def _spec(pgd: Pgd, attack: Attack, loss: str, scale_free: bool = False) -> AttackSpec:
    def detail(threat: Threat) -> str:
        steps = f"{pgd.steps} step{'s' if pgd.steps > 1 else ''} of {in_255ths(pgd.step_for(threat))}"
        return f"{loss}, {steps}, start {pgd.start}"

    return AttackSpec(attack, detail, scale_free=scale_free)


def suite(batch_size: int = 500, seed: int = 0) -> dict[str, AttackSpec]:
    """Return the attacks of an evaluation by name, weakest first."""
    fgsm, pgd, margin = Pgd(steps=1, start="none"), Pgd(steps=20, start="uniform"), Pgd(steps=30, start="uniform")
    auto = AutoAttack(batch_size=batch_size, seed=seed)
    quick, square = replace(auto, protocol="quick"), Square(seed=seed)
    return {
        "FGSM": _spec(fgsm, untargeted(fgsm), "cross-entropy"),
        "PGD-20": _spec(pgd, untargeted(pgd), "cross-entropy"),
        "C&W": _spec(margin, cw(margin), "margin loss", scale_free=True),
        "AutoAttack-quick": AttackSpec(quick, lambda _: str(quick), usual=False, scale_free=True),
        "AutoAttack": AttackSpec(auto, lambda _: str(auto), scale_free=True),
        "Square": AttackSpec(square, lambda _: str(square), usual=False, scale_free=True),
    }


PROTOCOLS = ("standard", "quick")


def choose_attacks(
    names: str | None, specs: Mapping[str, AttackSpec], protocol: str = "standard"
) -> dict[str, AttackSpec]:
    """Choose attacks by a list such as ``"fgsm,pgd-20"``; None: the default ones. ``"none"``: clean accuracy only.

    Args:
        protocol: of AutoAttack: ``"quick"`` puts AutoAttack-quick, under this name, where AutoAttack would be,
            with a note where ``names`` name AutoAttack itself, or have nothing of it.
    """
    if protocol not in PROTOCOLS:
        raise unknown("protocol", protocol, PROTOCOLS)
    by_name = {name.lower().replace("&", ""): name for name in specs}
    if names is None:
        named = [name for name, spec in specs.items() if spec.usual]
    else:
        if not names.strip(" ,"):
            raise MmardError(
                f"attacks {names!r} names none; expected such as fgsm,pgd-20, or none for clean accuracy only"
            )
        wanted = [n.strip().lower().replace("&", "") for n in names.split(",") if n.strip() not in ("", "none", CLEAN)]
        for n in wanted:
            if n not in by_name:
                raise unknown("attack", n, [*by_name, "none"])
        named = [by_name[n] for n in wanted]
    return {name: specs[name] for name in (_quick(named, said=names is not None) if protocol == "quick" else named)}


def _quick(named: Sequence[str], said: bool) -> list[str]:
    """Put AutoAttack-quick in AutoAttack's place, with a note where the user's own names say otherwise."""
    whole = [name for name in named if name.endswith("AutoAttack")]
    if said and whole:
        told = f"protocol=quick puts {whole[0]}-quick in the place of {whole[0]}; leave it out to run the whole"
        warnings.warn(Note(told), stacklevel=2)
    elif said and not any("AutoAttack" in name for name in named):
        warnings.warn(Note("protocol=quick changes nothing: AutoAttack is not among the attacks"), stacklevel=2)
    return [f"{name}-quick" if name in whole else name for name in named]


def unpruned(specs: Mapping[str, AttackSpec]) -> dict[str, AttackSpec]:
    """Turn off pruning of AutoAttack: every pass of the package's, and its last wrong iterate, not the first."""
    return {
        name: replace(spec, attack=replace(spec.attack, prune=False)) if isinstance(spec.attack, AutoAttack) else spec
        for name, spec in specs.items()
    }


def for_classes(specs: Mapping[str, AttackSpec], count: int) -> dict[str, AttackSpec]:
    """Adapt the attacks to data of so many classes: AutoAttack loses what does not work there, and says so."""
    return {name: _for_classes(spec, spec.attack, min(count, WHOLE)) for name, spec in specs.items()}


def _for_classes(spec: AttackSpec, attack: Attack, count: int) -> AttackSpec:
    if not isinstance(attack, AutoAttack) or attack.classes == count:
        return spec
    fewer = replace(attack, classes=count)
    return replace(spec, attack=fewer, detail=lambda threat: "; ".join([spec.detail(threat), fewer.note]))
