"""From a model to its verdicts: what `mmard eval` does, for Python."""

import shutil
from pathlib import Path
from typing import Any

from mmard.core.errors import MmardError
from mmard.core.files import write_json
from mmard.evaluation.checked import checked, how_to_check
from mmard.evaluation.evaluate import Tick, choose, suite
from mmard.evaluation.scores import Scores
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
    tick: Tick = lambda *_: None,
    **overrides: Any,
) -> Scores:
    """Judge a model on the test images of its data set; tables and verdicts go to ``eval/`` beside its weights.

    What is found is kept there at once, so that the same call after a kill goes on, and ends with the same verdicts.

    Args:
        source: run folder (its best checkpoint), weights file, card, or an exported model (.onnx).
        attacks: such as ``"fgsm,pgd-20"``; None: FGSM, PGD-20, C&W, AutoAttack; ``"none"``: clean only.
        protocol: ``"quick"`` puts AutoAttack-quick, two of its four attacks, in AutoAttack's place.
        limit: judge on about so many test images, every class in proportion; None: all.
        checks: ``"quick"``, ``"full"`` or ``"none"``; None: by the attacks. What they find is in ``facts["checks"]``.
        twin: of an exported model, the run or weights that lend it gradients; None: those it was exported from.
        **overrides: settings, dots as double underscores: ``threat__eps="4/255"``; ``engine__devices=2`` shares the work.
    """
    if batch_size < 1 or (limit is not None and limit < 1):
        raise MmardError(f"batch_size {batch_size} and limit {limit} are at least 1")
    found, words = Source.of(source, twin), {key.replace("__", "."): value for key, value in overrides.items()}
    if found.exported and checks not in (None, "none"):
        raise MmardError(
            f"checks={checks} ask for gradients, and an exported model has none; check the run it came from"
        )
    asked = _asked(attacks, protocol, limit, batch_size, seed, words | ({"twin": twin} if twin else {}))
    return _evaluate(found, asked, words, checks, tick)


def _evaluate(source: Source, asked: dict[str, Any], words: dict[str, Any], checks: str | None, tick: Tick) -> Scores:
    drawn = {"batch_size": asked["batch_size"], "seed": asked["seed"]}
    protocol, attacks = asked.get("protocol", "standard"), asked["attacks"]
    trials = source.exported.trials(attacks, **drawn) if source.exported else choose(attacks, suite(**drawn), protocol)
    how, engine = (
        how_to_check("none" if source.exported and checks is None else checks, trials),
        engine_of(settings := source.settings(words)),
    )
    with engine.together("start the evaluation again"):
        subject = Subject.of(source, settings, asked["limit"], engine.device)
        named = [] if attacks is None and protocol == "standard" else [*trials] or ["clean"]
        results = results_folder(source.path, asked, named, len(subject.images))
        engine.on_global_zero(lambda: write_json(results / "settings.json", settings.resolved()))  # can it be written?
        threat = source.threat(settings, words, checked=how != "none")
        means: dict[str, Any] = {"tick": tick, "crew": engine, "asked": subject.faster()}
        means["kept"] = subject.kept_in(results, settings, **drawn)
        others = subject.others(settings) if how == "full" else {}
        scores = checked(
            subject.model, subject.images, threat, trials, checks=how, others=others, of=subject.whole, **drawn, **means
        )
        scores.facts.update(source.described(), data=settings.data.name, seed=asked["seed"], asked=asked)
        scores.facts["settings"] = settings.resolved()
        engine.on_global_zero(lambda: _finish(scores, results))
    return scores


def _asked(
    attacks: str | None, protocol: str, limit: int | None, batch_size: int, seed: int, words: dict[str, Any]
) -> dict[str, Any]:
    """What was asked for, as a study looks it up: the usual protocol is not named, as before there was a choice."""
    changes = {key: value for key, value in words.items() if not key.startswith("engine.")}  # those change no verdict
    named = {} if protocol == "standard" else {"protocol": protocol}
    drawn = {"limit": limit, "batch_size": batch_size, "seed": seed}
    return {"attacks": attacks, **named, **drawn, "overrides": changes}


def _finish(scores: Scores, results: Path) -> None:
    """Write the whole, then drop its parts; a kill in between finds them all again."""
    scores.save(results)
    shutil.rmtree(results / "parts", ignore_errors=True)
