"""Evaluation of a model under attacks: what `mmard eval` does, for Python."""

import shutil
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from mmard.api.artifacts import Artifacts, keep_card
from mmard.api.build import engine_of
from mmard.api.evaluation_request import EvaluationRequest
from mmard.api.evaluation_target import EvalModel, EvalTarget
from mmard.api.settings import Settings
from mmard.api.unused_settings import EVALUATION
from mmard.core.threat import Threat
from mmard.evaluation.checks.run import evaluate_with_checks, how_to_check
from mmard.evaluation.loop import Execution, OnProgress
from mmard.evaluation.scores import Scores
from mmard.evaluation.suite import AttackSpec
from mmard.models.cards import results_folder
from mmard.runs.folder import RunFolder
from mmard.runs.record import is_run
from mmard.training.tracking import log_evaluation
from mmard.utils.argument_types import Names, public
from mmard.utils.errors import MmardError, Note
from mmard.utils.files import write_json
from mmard.utils.portable_paths import portable
from mmard.utils.safe_open import alone_in, must_stay_in


@partial(public, name="evaluate")
def evaluate_run(
    source: str | Path | RunFolder, attacks: Names = None, *,
    protocol: str = "standard", limit: int | None = None, batch_size: int = 500, seed: int = 0,
    checks: str | None = None, surrogate: str | Path | None = None, curve: bool = False, examples: int = 12,
    on_progress: OnProgress = lambda *_: None, trust: bool = False, module: nn.Module | None = None, **overrides: Any,
) -> Scores:  # fmt: skip
    """Evaluate a model on the test images of its data set; tables and verdicts go to ``eval/`` beside its weights.

    Verdicts are saved at once: the same call after a kill goes on, and ends with the same verdicts.

    Args:
        source: run folder (its best checkpoint), weights, card, exported model (.onnx), or ``"net.py:build@weights.pt"``.
        attacks: such as ``"fgsm,pgd-20"`` or ``["fgsm", "pgd-20"]``; None: FGSM, PGD-20, C&W, AutoAttack; ``"none"``: clean only.
        protocol: ``"quick"`` puts AutoAttack-quick, two of its four attacks, in AutoAttack's place.
        limit: evaluate on about so many test images, every class in proportion; None: all.
        checks: ``"quick"``, ``"full"`` or ``"none"``; None: by the attacks. What they find is in ``metadata["checks"]``.
        surrogate: of an exported model: a source whose gradients attacks use; None: what it was exported from.
        curve, examples: further files for a report; see `mmard.api.artifacts.Artifacts`.
        trust: use data that the weights name and run code beside them, though this user never did.
        module: for a run whose network was given in Python: one like it.
        **overrides: settings, dots as double underscores: ``threat__eps="4/255"``; ``engine__devices=2`` shares the work.
    """
    words = {key.replace("__", "."): str(v) if isinstance(v, Path) else v for key, v in overrides.items()}
    request = EvaluationRequest(
        attacks=attacks, protocol=protocol, limit=limit, batch_size=batch_size, seed=seed, checks=checks,
        overrides=words, surrogate=None if surrogate is None else str(surrogate), curve=curve, examples=examples,
    )  # fmt: skip
    known = EvalTarget.of(source, request.surrogate, module, trust=trust)
    return _evaluate(known, known.settings(words, EVALUATION, trust=trust), request, on_progress)


def _evaluate(
    source: EvalTarget,
    settings: Settings,
    request: EvaluationRequest,
    on_progress: OnProgress,
) -> Scores:
    described, specs = source.described(), source.specs(request)  # whose digest is taken before the weights are loaded
    how, engine = _how_to_check(source, request, specs), engine_of(settings)
    with engine.together("start the evaluation again"), ExitStack() as held:
        subject = EvalModel.of(source, settings, request.limit, engine.device)
        if source.exported and source.exported.waits:
            specs = source.specs(request, subject.surrogate)
        results = request.folder(source.path, specs, len(subject.images), source.network)
        must_stay_in(results_folder(source.path), results)
        alone = alone_in(results, "wait for it, and start this evaluation again")
        engine.on_global_zero(lambda: held.enter_context(alone))
        # Written before the attacks, so that a folder that cannot be written in is known.
        engine.on_global_zero(lambda: write_json(results / "settings.json", portable(settings.resolved())))
        attacked = bool(specs) or request.curve or how == "full"
        threat = source.threat(settings, request.overrides, needed=attacked)
        if not (attacked or source.says("threat", request.overrides)):
            threat = Threat(eps=0.0)  # nobody named one, and nothing needs it
        shown = request.examples if threat.eps > 0 else 0
        besides = Artifacts(subject, threat, curve=request.curve, examples=shown)
        scores = evaluate_with_checks(
            subject.model, subject.images, threat, specs, checks=how, known=subject.findings(),
            others=subject.others(settings) if how == "full" else {},
            execution=Execution(
                batch_size=request.batch_size, seed=request.seed, on_progress=on_progress, ranks=engine,
                predict=subject.faster(),
                cache=subject.cache_in(results / "parts", specs, threat, request.batch_size, request.seed),
            ),
        )  # fmt: skip
        source.must_be_unchanged(described)
        scores.metadata.update(described, **_asked(source, subject, settings, request, specs, threat))
        engine.on_global_zero(lambda: scores.save(results))
        besides.keep(results, engine, on_progress, batch_size=request.batch_size, seed=request.seed)
        engine.on_global_zero(lambda: _finish(source, results, scores))
    return scores


def _how_to_check(source: EvalTarget, request: EvaluationRequest, specs: Mapping[str, AttackSpec]) -> str:
    """Choose the kind of checks; note a teacher that none of them asks."""
    how = how_to_check(request.checks, specs)
    if source.exported and how == "full":
        raise MmardError("checks=full ask for gradients, which an exported model has not; check its float surrogate so")
    named = [key for key in request.overrides if key.split(".")[0] in ("teacher", "teachers")]
    if named and how != "full":
        warnings.warn(Note(f"{named[0]} changes nothing with checks={how}: full checks alone ask it"), stacklevel=2)
    return how


def _asked(
    source: EvalTarget,
    subject: EvalModel,
    settings: Settings,
    request: EvaluationRequest,
    specs: Mapping[str, AttackSpec],
    threat: Threat,
) -> dict[str, Any]:
    """Collect what was asked for, and of which images, for the record."""
    told = source.told(settings) | ({} if threat.eps > 0 or specs else {"threat": None})
    asked = {"asked": request.metadata(specs), "settings": portable(told)}
    return {"data": settings.data.name, "test_images": subject.digest(), "seed": request.seed, **asked}


def _finish(source: EvalTarget, results: Path, scores: Scores) -> None:
    """Remove the verdicts of single batches, which a stopped evaluation resumes from; write the card, tell trackers."""
    run = source.path.parent
    shutil.rmtree(results / "parts", ignore_errors=True)
    log_evaluation(run, results.name, scores.rows())
    keep_card(source.path if source.network and not is_run(run) else run)
