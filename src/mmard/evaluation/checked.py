"""An evaluation with its checks: before the attacks, and after them, on what they found."""

import time
from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from mmard.core.errors import MmardError
from mmard.core.tf32 import full_precision
from mmard.core.threat import Threat
from mmard.core.views import Predict, held_still
from mmard.data.images import Images, some
from mmard.evaluation.batches import Alone, Crew
from mmard.evaluation.checks import KINDS, Check, How, as_dicts
from mmard.evaluation.eot import Averaged, over_draws
from mmard.evaluation.evaluate import Tick, Trial, choose, evaluate, must_be_a_model, suite
from mmard.evaluation.flags import flags_of_probes, flags_of_verdicts
from mmard.evaluation.kept import Forgotten, Kept
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
    seed: int = 0,
    tick: Tick = lambda *_: None,
    crew: Crew = Alone(),
    asked: Predict | None = None,
    kept: Kept = Forgotten(),
) -> Scores:
    """`evaluate` with its checks; what they find is in ``facts["checks"]``, what was looked at in ``facts["checked"]``.

    A model that is found to be randomised is judged by the mean of its logits over draws, and every attack's line says so.

    Args:
        trials: from `suite`; None: its usual ones.
        checks: ``"quick"`` before the attacks, and of the verdicts; ``"full"`` further attacks on 200 images too; ``"none"``;
            None: full where AutoAttack runs, none where there is no attack, else quick.
        others: networks whose adversarial examples are tried on the model, by name, such as its teacher.
        of: images in the whole test set; None: these are all.
        asked, kept: as for `evaluate`; a randomised model does without.

    Raises:
        CheckError: where a check that must hold before the attacks does not.
        MmardError: as `evaluate`.
    """
    must_be_a_model(model, images)
    begun, trials = time.perf_counter(), choose(None, suite(batch_size, seed)) if trials is None else trials
    how, found, looked = how_to_check(checks, trials), [_part(len(images), of)], 0
    judging = {"batch_size": batch_size, "seed": seed, "tick": tick, "crew": crew}
    if how != "none":
        with held_still(model), full_precision():
            found += preflight(model, images, threat, trials)
    randomised = any(check is not None and check.name == "randomised" for check in found)
    model = Averaged(model) if randomised else model
    before = time.perf_counter() - begun
    spared = {} if randomised else {"asked": asked, "kept": kept}
    scores = evaluate(model, images, threat, trials, **judging, **spared)  # type: ignore[arg-type]
    begun = time.perf_counter()
    if how != "none":
        found += flags_of_verdicts(scores)
    if how == "full" and threat.eps > 0:
        few = some(images, PROBED, seed=0)
        tried = {name: probe for name, probe in probes(few, threat, others or {}, seed).items() if name not in trials}
        looked = len(few)
        probed = evaluate(model, few, threat, tried, **{**judging, "batch_size": min(batch_size, AT_ONCE)})  # type: ignore[arg-type]
        found += flags_of_probes(scores, probed)
    seconds = before + time.perf_counter() - begun
    facts = {
        "checks": as_dicts(check for check in found if check),
        "checked": {"how": how, "probed": looked, "seconds": seconds},
    }
    scores = over_draws(scores) if randomised else scores
    return replace(scores, facts={**scores.facts, **facts})


def _part(count: int, of: int | None) -> Check | None:
    return Check("whole-set", "note", f"{count:,} of {of:,} test images") if of is not None and count < of else None
