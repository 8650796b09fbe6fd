"""From a model to its verdicts: what `mmard eval` does, for Python."""

import shutil
from pathlib import Path
from typing import Any

from mmard.core.errors import MmardError
from mmard.core.files import write_json
from mmard.evaluation.checked import checked, how_to_check
from mmard.evaluation.evaluate import Tick, choose, suite
from mmard.evaluation.scores import Scores
from mmard.extras import Extras, keep_card
from mmard.objects import engine_of
from mmard.runs import RunFolder
from mmard.subjects import Source, Subject, results_folder


def evaluate(
    source: str | Path | RunFolder,
    attacks: str | None = None,
    *,
    protocol: str = "standard",
    limit: int | None = None,
    batch_size: int = 500,
    seed: int = 0,
    checks: str | None = None,
    twin: str | None = None,
    curve: bool = False,
    examples: int = 12,
    tick: Tick = lambda *_: None,
    **overrides: Any,
) -> Scores:
    """Judge a model on the test images of its data set; tables and verdicts go to ``eval/`` beside its weights.

    What is found is kept at once: the same call after a kill goes on, and ends with the same verdicts.

    Args:
        source: run folder (its best checkpoint), weights file, card, or an exported model (.onnx).
        attacks: such as ``"fgsm,pgd-20"``; None: FGSM, PGD-20, C&W, AutoAttack; ``"none"``: clean only.
        protocol: ``"quick"`` puts AutoAttack-quick, two of its four attacks, in AutoAttack's place.
        limit: judge on about so many test images, every class in proportion; None: all.
        checks: ``"quick"``, ``"full"`` or ``"none"``; None: by the attacks. What they find is in ``facts["checks"]``.
        twin: of an exported model, the run or weights that lend it gradients; None: those it was exported from.
        curve, examples: what to keep besides, for a report; see `mmard.extras.Extras`.
        **overrides: settings, dots as double underscores: ``threat__eps="4/255"``; ``engine__devices=2`` shares the work.
    """
    if batch_size < 1 or (limit is not None and limit < 1):
        raise MmardError(f"batch_size {batch_size} and limit {limit} are at least 1")
    found, words = Source.of(source, twin), {key.replace("__", "."): value for key, value in overrides.items()}
    if found.exported and checks == "full":
        raise MmardError("checks=full ask for gradients, which an exported model has not; check its float twin so")
    named = {} if protocol == "standard" else {"protocol": protocol}  # as a study looks it up, which knows one protocol
    own = words | ({"twin": twin} if twin else {})
    changes = {key: value for key, value in own.items() if not key.startswith("engine.")}  # those change no verdict
    asked = {"attacks": attacks, **named, "limit": limit, "batch_size": batch_size, "seed": seed, "overrides": changes}
    return _evaluate(found, asked, words, {"curve": curve, "examples": examples}, checks, tick)


def _evaluate(
    source: Source, asked: dict[str, Any], words: dict[str, Any], extra: dict[str, Any], checks: str | None, tick: Tick
) -> Scores:
    drawn, settings = {"batch_size": asked["batch_size"], "seed": asked["seed"]}, source.settings(words)
    protocol, attacks = asked.get("protocol", "standard"), asked["attacks"]
    own = source.exported.trials(attacks, **drawn) if source.exported else None
    trials = choose(attacks, suite(**drawn), protocol) if own is None else own
    how, engine = how_to_check(checks, trials), engine_of(settings)
    with engine.together("start the evaluation again"):
        subject = Subject.of(source, settings, asked["limit"], engine.device)
        named = [] if attacks is None and protocol == "standard" else [*trials] or ["clean"]
        results = results_folder(source.path, asked, named, len(subject.images))
        engine.on_global_zero(lambda: write_json(results / "settings.json", settings.resolved()))  # can it be written?
        threat = source.threat(settings, words, checked=how != "none")
        extras = Extras(subject, threat, **extra)
        means: dict[str, Any] = {**drawn, "tick": tick, "crew": engine, "asked": subject.faster()}
        means["kept"] = subject.kept_in(results, settings, **drawn)
        others = subject.others(settings) if how == "full" else {}
        whole = {"checks": how, "others": others, "of": subject.whole}
        scores = checked(subject.model, subject.images, threat, trials, **whole, **means)  # type: ignore[arg-type]
        scores.facts.update(source.described(), data=settings.data.name, seed=asked["seed"], asked=asked)
        scores.facts["settings"] = settings.resolved()
        engine.on_global_zero(lambda: scores.save(results))
        extras.keep(results, engine, tick, **drawn)
        engine.on_global_zero(lambda: _finish(source.path.parent, results))
    return scores


def _finish(run: Path, results: Path) -> None:
    """The whole is written: drop its parts, which a kill until now would have found again; and tell the card."""
    shutil.rmtree(results / "parts", ignore_errors=True)
    keep_card(run)
