"""Files that reports and model cards show beside scores, written with an evaluation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from mmard.api.build import method_of
from mmard.api.evaluation_target import EvalModel
from mmard.api.settings import Settings, read_settings
from mmard.api.teacher_temperature import filled
from mmard.core.threat import Threat
from mmard.data.images import some
from mmard.evaluation.curve import curve as curve_of
from mmard.evaluation.curve import radii_of
from mmard.evaluation.eot import Averaged
from mmard.evaluation.examples import Examples
from mmard.evaluation.examples import examples as examples_of
from mmard.evaluation.loop import OnProgress
from mmard.models.architectures import Classifier
from mmard.models.weights import metadata_of
from mmard.report.card import write_card
from mmard.runs.evaluation import CURVE, EXAMPLES, read_scores
from mmard.runs.folder import RunFolder, printable
from mmard.runs.record import is_run
from mmard.training.engine import Engine
from mmard.training.passes import cost_of, in_words
from mmard.utils.errors import MmardError
from mmard.utils.files import read_json, write_json

CURVE_IMAGES = 500


@dataclass(frozen=True, eq=False)
class Artifacts:
    """The files beside the scores of an evaluation; of an exported model, which has no gradients, there are none.

    Args:
        curve: accuracy under PGD-20 at eight radii from 0 to 4 eps, on about `CURVE_IMAGES` of the images: curve.json.
        examples: so many images with what PGD-20 makes of them: examples.safetensors; 0: none.

    Raises:
        MmardError: where there can be no curve; before the attacks.
    """

    subject: EvalModel
    threat: Threat
    curve: bool
    examples: int

    def __post_init__(self) -> None:
        if self.examples < 0:
            raise MmardError(f"examples {self.examples} is no number of images; expected 0 for none, or more")
        if self.curve:
            radii_of(self.threat)
        if self.curve and not isinstance(self.subject.model, Classifier):
            raise MmardError(
                "a curve asks for gradients, and an exported model has none; draw it of the run it came from"
            )

    def keep(self, results: Path, engine: Engine, on_progress: OnProgress, batch_size: int, seed: int) -> None:
        """Write examples.safetensors and curve.json, as requested, beside the scores that are there by now.

        Those of other weights, which would stand beside these scores in a report, are removed.
        """
        engine.on_global_zero(lambda: _forget(results))
        images, model = self.subject.images, _as_judged(self.subject.model, results)
        if self.examples and isinstance(self.subject.model, Classifier):
            shown = examples_of(model, images, self.threat, count=self.examples, seed=seed)
            told = shown.metadata
            engine.on_global_zero(
                lambda: replace(shown, metadata={**told, **_weights(results)}).save(results / EXAMPLES)
            )
        if self.curve:
            few, how = some(images, CURVE_IMAGES, seed=0), {"batch_size": batch_size, "seed": seed}
            found = curve_of(model, few, self.threat, **how, on_progress=on_progress, ranks=engine)
            engine.on_global_zero(lambda: write_json(results / CURVE, found | _weights(results)))


def _as_judged(model: nn.Module, results: Path) -> nn.Module:
    """Return the model as the scores are of it: a randomised one as the mean over draws."""
    found = read_scores(results).metadata.get("checks") or ()
    return Averaged(model) if any(check.get("name") == "randomised" for check in found) else model


def _weights(results: Path) -> dict[str, str]:
    """Return ``{"weights": sha256}`` of the weights that the scores are of; empty where they do not say."""
    known = read_scores(results).metadata.get("weights")
    return {"weights": known} if isinstance(known, str) else {}


def _forget(results: Path) -> None:
    """Remove files of an earlier evaluation, unless it was of the weights that the scores are of now."""
    now = _weights(results).get("weights")
    told: dict[str, Callable[[Path], Mapping[str, Any]]] = {
        CURVE: read_json,
        EXAMPLES: lambda at: Examples.load(at).metadata,
    }
    for name, read in told.items():
        try:
            then = read(results / name).get("weights")
        except MmardError:
            then = None
        if now is None or then != now:
            (results / name).unlink(missing_ok=True)


def keep_card(folder: Path) -> None:
    """Write the model card of a run folder, or of an evaluated file of weights; a folder of another kind gets none."""
    if folder.is_file():
        write_card(folder)
    elif is_run(folder):
        kept = RunFolder(folder).formula() or _in_header(RunFolder(folder).best_file)
        write_card(folder, kept or settings_and_formula_of(folder)[1])


def settings_and_formula_of(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """Read a run's resolved settings (None if they cannot be) and its formula, without running code that it names."""
    try:
        settings = read_settings(folder)
    except MmardError:
        return None, ""
    return settings.resolved(), formula_of(settings, RunFolder(folder))


def formula_of(settings: Settings, folder: RunFolder | None = None) -> str:
    """Return a method's formula as in its paper: from the run folder, else from `mmard.methods`; empty where not known.

    A method from elsewhere is built only where the user vouches for it.
    """
    if folder is not None and (kept := folder.formula() or _in_header(folder.best_file)):
        return kept
    try:
        return str(method_of(settings))
    except MmardError:
        return ""


def cost_line(settings: Settings) -> str:
    """Return the passes of a step of a method, with the settings' attack; empty where they cannot be counted."""
    known = settings.model_copy(update={"method": filled(settings.method, 1.0)})  # no temperature changes a count
    try:
        cost = cost_of(method_of(known), known_at_x=settings.data.variants is not None)
    except MmardError:
        return ""
    whole = ", ".join(f"{name} {sum(each.in_forwards for each in of.values())}" for name, of in cost.items())
    return f"cost:  {in_words(cost)}; worth {whole} forward passes"


def _in_header(weights: Path) -> str:
    try:
        return printable(metadata_of(weights).get("formula")) if weights.is_file() else ""
    except MmardError:
        return ""
