"""An evaluation with its checks: before the attacks, and after them, on what they found."""

import math
import time
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import nn

from mmard.core.threat import Threat
from mmard.core.views import Predict, held_still
from mmard.data.images import Images, some
from mmard.evaluation.cache import Cache, NoCache
from mmard.evaluation.checks.consistency import flags_of_probes, flags_of_verdicts
from mmard.evaluation.checks.memory import ReferenceModel, copied
from mmard.evaluation.checks.messages import KINDS, Check, How, as_dicts
from mmard.evaluation.checks.preflight import preflight
from mmard.evaluation.checks.probes import AT_ONCE, PROBED, probes
from mmard.evaluation.eot import Averaged, over_draws
from mmard.evaluation.evaluate import AttackSpec, OnProgress, choose, evaluate, must_be_judgeable, suite, unpruned
from mmard.evaluation.loop import OneRank, Ranks
from mmard.evaluation.predict import must_answer
from mmard.evaluation.prepare import prepared
from mmard.evaluation.scores import Scores
from mmard.utils.errors import MmardError
from mmard.utils.precision import full_precision


def how_to_check(asked: str | None, trials: Mapping[str, AttackSpec]) -> How:
    """The kind of checks: what is asked for, else all where AutoAttack runs, the quick ones with weaker attacks."""
    if asked is None:
        return "none" if not trials else "full" if "AutoAttack" in trials else "quick"
    for kind in KINDS:
        if kind == asked:
            return kind
    raise MmardError(f"checks {asked!r} are not known; expected one of {', '.join(KINDS)}")


def evaluate_with_checks(
    model: nn.Module,
    images: Images,
    threat: Threat,
    trials: Mapping[str, AttackSpec] | None = None,
    *,
    checks: str | None = None,
    others: Mapping[str, nn.Module] | None = None,
    of: float | None = None,
    batch_size: int = 500,
    seed: int = 0,
    on_progress: OnProgress = lambda *_: None,
    ranks: Ranks = OneRank(),
    predict: Predict | None = None,
    cache: Cache = NoCache(),
) -> Scores:
    """`evaluate` with its checks: ``metadata["checks"]`` is what they find, ``metadata["checked"]`` what they looked at.

    A randomised model is judged by the mean of its logits over draws, and every line says so. ``checks`` is as `how_to_check`
    reads it, ``others`` are networks whose examples are tried on the model, by name, ``of`` is the size of the whole test set
    (∞ where nobody knows; None: these images). The rest, and what is raised, as of `evaluate`; `CheckError` before the attacks.
    """
    must_be_judgeable(model, images, batch_size, seed)
    trials = choose(None, suite(batch_size, seed)) if trials is None else trials
    how, begun, model = how_to_check(checks, trials), time.perf_counter(), prepared(model, images)
    before, witness = _before(model, images, threat, trials, batch_size) if how != "none" else ([], None)
    found = [*_part(len(images), of), *_unlent(model, trials), *before]
    if randomised := any(check.name == "randomised" for check in found):
        model, trials, predict, cache, witness = Averaged(model), unpruned(trials), None, NoCache(), None
    looked = time.perf_counter() - begun
    judge = partial(evaluate, model, threat=threat, seed=seed, on_progress=on_progress, ranks=ranks)
    scores = judge(images, trials=trials, batch_size=batch_size, predict=predict, cache=cache, witness=witness)
    begun = time.perf_counter() - looked  # what the attacks took is not the checks'
    found += [*flags_of_verdicts(scores), *(witness.findings(model) if witness else [])] if how != "none" else []
    few = some(images, PROBED, seed=0) if how == "full" and threat.eps > 0 else images.take(torch.arange(0))
    found += _probed(scores, few, threat, others or {}, seed, judge, min(batch_size, AT_ONCE)) if len(few) else []
    told = {"how": how, "probed": len(few), "seconds": time.perf_counter() - begun}
    scores.metadata.update(checks=as_dicts(found), evaluate_with_checks=told)
    return over_draws(scores) if randomised else scores


def _probed(
    scores: Scores, few: Images, threat: Threat, others: Mapping[str, nn.Module], seed: int,
    judge: Callable[..., Scores], batch_size: int,
) -> list[Check]:  # fmt: skip
    """What attacks on some images say that the evaluation has not run itself."""
    new = {n: t for n, t in probes(few, threat, others, seed).items() if n not in scores.attacks}
    return flags_of_probes(scores, judge(few, trials=new, batch_size=batch_size))


def _before(
    model: nn.Module, images: Images, threat: Threat, trials: Mapping[str, AttackSpec], batch_size: int
) -> tuple[list[Check], ReferenceModel | None]:
    """What is found before the attacks, and a witness of how the model was then."""
    fresh = copied(model)
    with held_still(model), full_precision():
        must_answer(model, images)
        found = preflight(model, images, threat, trials, batch_size)
        return found, ReferenceModel.of(model, fresh, images, threat)


def _unlent(model: nn.Module, trials: Mapping[str, AttackSpec]) -> list[Check]:
    """Of a model without gradients that nobody lends any: the record says so, whatever was checked."""
    if getattr(model, "has_gradients", True) or not trials or any(trial.asks for trial in trials.values()):
        return []
    return [Check("surrogate", "warning", "the model gives no gradients, and no network lends it any")]


def _part(count: int, of: float | None) -> list[Check]:
    if of is None or count >= of:
        return []
    said = "a part of the test set (data.test_limit)" if math.isinf(of) else f"of {of:,} test images"
    return [Check("whole-set", "note", f"{count:,} {said}")]
