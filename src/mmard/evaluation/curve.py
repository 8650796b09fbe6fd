"""Accuracy against the radius of the ball: one attack, eight radii."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from mmard.core.threat import Threat
from mmard.data.images import Images
from mmard.evaluation.loop import Execution, OneRank, OnProgress, Ranks
from mmard.evaluation.run import run_attacks
from mmard.evaluation.suite import AttackSpec, suite
from mmard.utils.errors import MmardError

SHARES = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
"""The radii, in units of eps."""
ATTACK = "PGD-20"
DETAIL = "cross-entropy, 20 steps of a quarter of the radius, start uniform"


def radii_of(threat: Threat) -> list[float]:
    """Return the radii of the curve, growing; none is larger than the pixel range in L∞.

    Raises:
        MmardError: where eps is 0, so that there is nothing to vary.
    """
    if threat.eps == 0:
        raise MmardError("a curve goes from 0 to 4 eps, and eps is 0; give one: threat.eps=8/255")
    most = threat.upper - threat.lower if threat.norm == "linf" else 16.0
    return sorted({min(share * threat.eps, most) for share in SHARES})


def curve(
    model: nn.Module,
    images: Images,
    threat: Threat,
    *,
    batch_size: int = 500,
    seed: int = 0,
    on_progress: OnProgress = lambda *_: None,
    ranks: Ranks = OneRank(),
) -> dict[str, Any]:
    """Measure accuracy in percent under PGD-20 at each radius, with Wilson's 95 % interval over the images.

    Each radius is attacked by itself, so that a curve which rises says something (Carlini et al., 2019, arXiv 1902.06705,
    sec. 4: a larger ball can only make an attack stronger, unless gradients are hidden).
    """
    spec: Mapping[str, AttackSpec] = {ATTACK: suite(batch_size, seed)[ATTACK]}
    found: dict[str, Any] = {"attack": ATTACK, "detail": DETAIL, "norm": threat.norm, "eps": threat.eps}
    found |= {"samples": len(images), "radii": radii_of(threat), "accuracy": [], "low": [], "high": []}
    for radius in found["radii"]:
        ball = replace(threat, eps=radius)

        def said(_: str, done: int, total: int, ball: Threat = ball) -> None:
            on_progress(f"curve, {ball}", done, total)

        scores = run_attacks(
            model,
            images,
            ball,
            spec,
            execution=Execution(batch_size=batch_size, seed=seed, on_progress=said, ranks=ranks),
        )
        row = scores.rows()[scores.attacks.index(ATTACK)]
        for key in ("accuracy", "low", "high"):
            found[key].append(row[key])
    return found
