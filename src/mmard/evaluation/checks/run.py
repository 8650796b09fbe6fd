"""An evaluation with its checks before and after the attacks."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from mmard.core.threat import Threat
from mmard.core.views import held_still
from mmard.data.images import Images, some
from mmard.evaluation.cache import NoCache
from mmard.evaluation.checks.consistency import flags_of_probes, flags_of_verdicts
from mmard.evaluation.checks.messages import KINDS, Check, How, as_dicts
from mmard.evaluation.checks.preflight import preflight
from mmard.evaluation.checks.probes import AT_ONCE, PROBED, probes
from mmard.evaluation.checks.statefulness import ReferenceModel, copied
from mmard.evaluation.checks.surrogate import check_surrogate
from mmard.evaluation.eot import Averaged, over_draws
from mmard.evaluation.loop import Execution
from mmard.evaluation.predict import must_answer
from mmard.evaluation.prepare import prepare_model
from mmard.evaluation.run import must_be_judgeable, run_attacks
from mmard.evaluation.scores import Scores
from mmard.evaluation.suite import AttackSpec, choose_attacks, suite, unpruned
from mmard.utils.errors import MmardError
from mmard.utils.precision import full_precision


def how_to_check(asked: str | None, specs: Mapping[str, AttackSpec]) -> How:
    """Choose the kind of checks: the requested one, else ``full`` where AutoAttack runs and ``quick`` otherwise."""
    if asked is None:
        return "none" if not specs else "full" if "AutoAttack" in specs else "quick"
    for kind in KINDS:
        if kind == asked:
            return kind
    raise MmardError(f"checks {asked!r} are not known; expected one of {', '.join(KINDS)}")


def evaluate_with_checks(
    model: nn.Module,
    images: Images,
    threat: Threat,
    specs: Mapping[str, AttackSpec] | None = None,
    *,
    checks: str | None = None,
    others: Mapping[str, nn.Module] | None = None,
    known: Sequence[Check] = (),
    execution: Execution = Execution(),
) -> Scores:
    """Run `run_attacks` with checks: findings in ``metadata["checks"]``, their kind in ``metadata["checked"]``.

    A randomised model is evaluated by the mean of its logits over draws, and every line says so. ``checks`` is as `how_to_check`
    reads it, ``others`` are networks whose examples are tried on the model, by name, ``known`` are findings from before, such as
    those of `check_set`. The rest, and what is raised, as of
    `run_attacks`; `CheckError` before the attacks.
    """
    must_be_judgeable(model, images, execution)
    specs = choose_attacks(None, suite(execution.batch_size, execution.seed)) if specs is None else specs
    kind, begun, model = how_to_check(checks, specs), time.perf_counter(), prepare_model(model, images)
    before, reference = _before(model, images, threat, specs, execution.batch_size) if kind != "none" else ([], None)
    found = [*known, *check_surrogate(model, images, specs), *before]
    if randomised := any(check.name == "randomised" for check in found):
        model, specs, reference = Averaged(model), unpruned(specs), None
        execution = replace(execution, predict=None, cache=NoCache())
    looked = time.perf_counter() - begun
    scores = run_attacks(model, images, threat, specs, replace(execution, reference=reference))
    begun = time.perf_counter() - looked  # what the attacks took is not the checks'
    found += [*flags_of_verdicts(scores), *(reference.findings(model) if reference else [])] if kind != "none" else []
    few = some(images, PROBED, seed=0) if kind == "full" and threat.eps > 0 else images.take(torch.arange(0))
    probing = replace(execution, batch_size=min(execution.batch_size, AT_ONCE), predict=None, cache=NoCache())
    found += _probed(model, scores, few, threat, others or {}, probing) if len(few) else []
    told = {"how": kind, "probed": len(few), "seconds": time.perf_counter() - begun}
    scores.metadata.update(checks=as_dicts(found), checked=told)
    return over_draws(scores) if randomised else scores


def _probed(
    model: nn.Module, scores: Scores, few: Images, threat: Threat, others: Mapping[str, nn.Module], execution: Execution
) -> list[Check]:
    """Run the probes that the evaluation has not run itself, and return their findings."""
    new = {n: s for n, s in probes(few, threat, others, execution.seed).items() if n not in scores.attacks}
    return flags_of_probes(scores, run_attacks(model, few, threat, new, execution))


def _before(
    model: nn.Module, images: Images, threat: Threat, specs: Mapping[str, AttackSpec], batch_size: int
) -> tuple[list[Check], ReferenceModel | None]:
    """Run the checks before the attacks; return findings and a reference model of that moment."""
    fresh = copied(model)
    with held_still(model), full_precision():
        must_answer(model, images)
        found = preflight(model, images, threat, specs, batch_size)
        return found, ReferenceModel.of(model, fresh, images, threat)


def check_set(count: int, whole: float, shared: int = 0) -> list[Check]:
    """Tell of a part of a test set, and of one whose images were trained on.

    Args:
        count, whole: test images that are judged on, and in all; ∞ where that is not known.
        shared: how many of all are training images too.
    """
    found = []
    if shared:
        found.append(
            Check("overlap", "warning", f"{shared:,} of all test images are images of the model's training too")
        )
    if count < whole:
        said = "a part of the test set (data.test_limit)" if math.isinf(whole) else f"of {whole:,} test images"
        found.append(Check("whole-set", "note", f"{count:,} {said}"))
    return found
