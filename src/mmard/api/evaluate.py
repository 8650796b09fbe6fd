"""From a model to its verdicts: what `mmard eval` does, for Python."""

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from mmard.api.artifacts import Extras, keep_card
from mmard.api.build import engine_of
from mmard.api.evaluation_request import Asked
from mmard.api.evaluation_target import Source, Subject
from mmard.api.settings import Settings
from mmard.core.threat import Threat
from mmard.evaluation.checks.run import checked, how_to_check
from mmard.evaluation.evaluate import Tick
from mmard.evaluation.scores import Scores
from mmard.runs.folder import RunFolder
from mmard.utils.argument_types import Names, public
from mmard.utils.errors import MmardError
from mmard.utils.files import write_json
from mmard.utils.portable_paths import portable
from mmard.utils.safe_open import alone_in, must_stay_in


@public
def evaluate(
    source: str | Path | RunFolder,
    attacks: Names = None,
    *,
    protocol: str = "standard",
    limit: int | None = None,
    batch_size: int = 500,
    seed: int = 0,
    checks: str | None = None,
    twin: str | Path | None = None,
    curve: bool = False,
    examples: int = 12,
    tick: Tick = lambda *_: None,
    trust: bool = False,
    **overrides: Any,
) -> Scores:
    """Judge a model on the test images of its data set; tables and verdicts go to ``eval/`` beside its weights.

    What is found is kept at once: the same call after a kill goes on, and ends with the same verdicts.

    Args:
        source: run folder (its best checkpoint), weights file, card, or an exported model (.onnx).
        attacks: such as ``"fgsm,pgd-20"`` or ``["fgsm", "pgd-20"]``; None: FGSM, PGD-20, C&W, AutoAttack; ``"none"``: clean only.
        protocol: ``"quick"`` puts AutoAttack-quick, two of its four attacks, in AutoAttack's place.
        limit: judge on about so many test images, every class in proportion; None: all.
        checks: ``"quick"``, ``"full"`` or ``"none"``; None: by the attacks. What they find is in ``facts["checks"]``.
        twin: of an exported model, the run or weights that lend it gradients, or ``"net.py:build@weights.pt"``, whose code
            runs; None: those it was exported from.
        curve, examples: what to keep besides, for a report; see `mmard.api.artifacts.Extras`.
        trust: read and fetch the data that the weights name, though this user has never used them.
        **overrides: settings, dots as double underscores: ``threat__eps="4/255"``; ``engine__devices=2`` shares the work.
    """
    asked = Asked(
        attacks=attacks, protocol=protocol, limit=limit, batch_size=batch_size, seed=seed, checks=checks,
        twin=None if twin is None else str(twin),
        overrides={key.replace("__", "."): str(v) if isinstance(v, Path) else v for key, v in overrides.items()},
    )  # fmt: skip
    known = Source.of(source, asked.twin, trust=trust)
    settings = known.settings(asked.overrides, trust=trust)
    return _evaluate(known, settings, asked, partial(Extras, curve=curve, examples=examples), tick)


def _evaluate(
    source: Source, settings: Settings, asked: Asked, extras: Callable[[Subject, Threat], Extras], tick: Tick
) -> Scores:
    trials = source.trials(asked)
    how, engine = how_to_check(asked.checks, trials), engine_of(settings)
    if source.exported and how == "full":
        raise MmardError("checks=full ask for gradients, which an exported model has not; check its float twin so")
    with engine.together("start the evaluation again"), ExitStack() as held:
        subject = Subject.of(source, settings, asked.limit, engine.device)
        results = asked.folder(source.path, trials, len(subject.images))
        must_stay_in(source.path.parent, results)
        engine.on_global_zero(
            lambda: held.enter_context(alone_in(results, "wait for it, and start this evaluation again"))
        )
        # Written before the attacks, so that a folder that cannot be written in is known.
        engine.on_global_zero(lambda: write_json(results / "settings.json", portable(settings.resolved())))
        threat = source.threat(settings, asked.overrides, needed=len(trials) > 0)
        besides = extras(subject, threat)
        scores = checked(
            subject.model, subject.images, threat, trials, checks=how, of=subject.whole,
            others=subject.others(settings) if how == "full" else {}, batch_size=asked.batch_size, seed=asked.seed,
            tick=tick, crew=engine, asked=subject.faster(),
            kept=subject.kept_in(results / "parts", trials, threat, asked.batch_size, asked.seed),
        )  # fmt: skip
        scores.facts.update(source.described(), data=settings.data.name, seed=asked.seed, asked=asked.facts(trials))
        scores.facts["settings"] = portable(settings.resolved())
        engine.on_global_zero(lambda: scores.save(results))
        besides.keep(results, engine, tick, batch_size=asked.batch_size, seed=asked.seed)
        engine.on_global_zero(lambda: _finish(source.path.parent, results))
    return scores


def _finish(run: Path, results: Path) -> None:
    """The whole is written: drop its parts, which a kill until now would have found again; and tell the card."""
    shutil.rmtree(results / "parts", ignore_errors=True)
    keep_card(run)
