"""An evaluation with its checks: before the attacks, and after them, on what they found."""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from mmard.core.errors import MmardError
from mmard.core.tf32 import full_precision
from mmard.core.threat import Threat
from mmard.core.views import held_still
from mmard.data.images import Images, some
from mmard.evaluation.checks import KINDS, Check, How, as_dicts
from mmard.evaluation.eot import Averaged, over_draws
from mmard.evaluation.evaluate import Trial, choose, evaluate, must_be_a_model, suite
from mmard.evaluation.flags import flags_of_probes, flags_of_verdicts
from mmard.evaluation.preflight import preflight
from mmard.evaluation.probes import AT_ONCE, PROBED, probes
from mmard.evaluation.scores import Scores


def how_to_check(asked: str | None, trials: Mapping[str, Trial]) -> How:
    """The kind of checks: what is asked for, else all where AutoAttack runs, the quick ones with weaker attacks."""
    if asked is None:
        return "none" if not trials else "full" if "AutoAttack" in trials else "quick"
    for kind in KINDS:
        if kind == asked:
            return kind
    raise MmardError(f"checks {asked!r} are not known; expected one of {', '.join(KINDS)}")


def checked(
    model: nn.Module,
    images: Images,
    threat: Threat,
    trials: Mapping[str, Trial] | None = None,
    *,
    checks: str | None = None,
    others: Mapping[str, nn.Module] | None = None,
    of: int | None = None,
    batch_size: int = 500,
    **judging: Any,
) -> Scores:
    """`evaluate` with its checks: ``facts["checks"]`` is what they find, ``facts["checked"]`` what they looked at.

    A randomised model is judged by the mean of its logits over draws; every line says so.

    Args:
        trials, checks: from `suite`, None: its usual ones; as `how_to_check` reads it.
        others: networks whose adversarial examples are tried on the model, by name, such as its teacher.
        of: images in the whole test set; None: these are all.
        **judging: of `evaluate`: ``seed``, ``tick``, ``crew``; ``asked`` and ``kept``, which a randomised model does without.

    Raises:
        CheckError: where a check that must hold before the attacks does not.
        MmardError: as `evaluate`.
    """
    must_be_a_model(model, images)
    trials = choose(None, suite(batch_size, judging.get("seed", 0))) if trials is None else trials
    how, found, begun = how_to_check(checks, trials), _part(len(images), of), time.perf_counter()
    found += _before(model, images, threat, trials) if how != "none" else []
    if randomised := any(check.name == "randomised" for check in found):
        model = Averaged(model)
    spared = {key: judging.pop(key) for key in ("asked", "kept") if key in judging}
    scores = evaluate(model, images, threat, trials, batch_size=batch_size, **judging, **({} if randomised else spared))
    found += flags_of_verdicts(scores) if how != "none" else []
    few = some(images, PROBED, seed=0) if how == "full" and threat.eps > 0 else images.take(torch.arange(0))
    found += _probe(model, few, threat, scores, others or {}, {**judging, "batch_size": min(batch_size, AT_ONCE)})
    seconds = time.perf_counter() - begun - sum(scores.seconds)
    facts = {"checks": as_dicts(found), "checked": {"how": how, "probed": len(few), "seconds": seconds}}
    return replace(over_draws(scores) if randomised else scores, facts={**scores.facts, **facts})


def _before(model: nn.Module, images: Images, threat: Threat, trials: Mapping[str, Trial]) -> list[Check]:
    with held_still(model), full_precision():
        return preflight(model, images, threat, trials)


def _probe(
    model: nn.Module,
    few: Images,
    threat: Threat,
    scores: Scores,
    others: Mapping[str, nn.Module],
    judging: dict[str, Any],
) -> list[Check]:
    """What attacks on a few images tell that the evaluation has not run itself."""
    if len(few) == 0:
        return []
    tried = probes(few, threat, others, judging.get("seed", 0))
    new = {name: probe for name, probe in tried.items() if name not in scores.attacks}
    return flags_of_probes(scores, evaluate(model, few, threat, new, **judging))


def _part(count: int, of: int | None) -> list[Check]:
    part = of is not None and count < of
    return [Check("whole-set", "note", f"{count:,} of {of:,} test images")] if part else []
