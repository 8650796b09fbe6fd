"""Diagnosis of a run: several methods' examples against the teacher's boundary, made on the run's student."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mmard.api.build import build_threat, method_of
from mmard.api.comparison import Brought, Comparison
from mmard.api.evaluation_target import images_in, is_trained_on, must_be_cut_alike
from mmard.api.registry import label_of, method_specs, names_of
from mmard.api.settings import Settings, read_settings
from mmard.api.unused_settings import DIAGNOSIS, must_be_used_in
from mmard.attacks.inner.adaptive import WarmStart
from mmard.attacks.minimal import Minimal
from mmard.attacks.pgd import Pgd
from mmard.core.companion import Learned
from mmard.core.method import Method
from mmard.core.views import held_still
from mmard.data.sources import PYTHON
from mmard.diagnostics.boundary import BoundaryRecord
from mmard.diagnostics.record import Diagnosis
from mmard.diagnostics.slices import Slice, cut
from mmard.evaluation.loop import OnProgress
from mmard.models.weights import metadata_of
from mmard.report.figures.diagnosis import plot_margins, plot_slices
from mmard.report.figures.learning import plot_triangle
from mmard.runs.folder import RunFolder
from mmard.utils.argument_types import Names, public
from mmard.utils.errors import MmardError, unknown
from mmard.utils.files import write_json
from mmard.utils.portable_paths import portable
from mmard.utils.precision import full_precision
from mmard.utils.safe_open import must_stay_in

T = TypeVar("T")
USUAL = "ard,rslad,adaad,mmard(inner=drift),mmard(inner=margin)"
SPLITS = ("held-out", "test", "train")
OF_THE_CUT = ("held_out", "limit", "seed", "test_split", "test_seed")
"""Settings of the data by which an image is held out, trained on, or a test image."""
COLUMNS = (0.2, 0.4, 0.6, 0.8)  # images of the slices: these quantiles of the natural image's distance to the boundary


@public
def diagnose(
    source: str | Path | RunFolder, methods: Names = None, *,
    teacher: str | Path | None = None, split: str = "held-out", limit: int = 500, own_attacks: bool = False,
    batch_size: int = 100, seed: int = 0, to: str | Path | None = None, on_progress: OnProgress = lambda *_: None,
    trust: bool = False, module: nn.Module | None = None, **overrides: Any,
) -> Diagnosis:  # fmt: skip
    """Compare the examples of several methods at the teacher's decision boundary; write to ``diagnose/`` in the run.

    Args:
        source: run folder; its best student stands for every method.
        methods: such as ``"rslad,mmard(inner=entropy, beta=2)"``; None: the run's own, ARD, RSLAD, AdaAD, MMARD (two).
        teacher: run folder, weights or card; None: the run's own.
        split: ``"held-out"``, ``"test"`` or ``"train"``; what is chosen by these figures is chosen on the held-out split.
        limit: about so many images, every class in proportion.
        own_attacks: give each method its own maximiser (starts differ) instead of the run's to all.
        to: folder for tables and figures; None: ``diagnose/`` in the run.
        trust: run a method from a file, and read data and teachers, that only the folder names.
        module: for a run whose network was given in Python: one like it.
        **overrides: where data and teachers lie now, dots as double underscores: ``data__train="train.npz"``; ``data`` may be
            images, as of `mmard.distill`.
    """
    _check(split, limit, batch_size)
    folder, words = _run_of(source), {key.replace("__", "."): value for key, value in overrides.items()}
    given = Brought(images_in(words), module)
    words |= {} if teacher is None else {"teacher": str(teacher)}
    settings = _trusting(_with_teacher(folder, words, given, trust), methods)
    chosen = inner_processes(settings, own := method_of(settings), methods, own_attacks)
    comparison = Comparison.of(settings, folder.best_file, split, limit, batch_size, seed, given)
    comparison.begin(own, *chosen.values())
    results = _results(folder, to, settings)
    with held_still(*comparison.networks.values()), full_precision():
        found = _diagnosis(comparison, chosen, as_trained(own, folder), folder, on_progress)
    found.metadata.update(_metadata(comparison, settings, chosen), split=split, seed=seed, own_attacks=own_attacks)
    found.metadata.update(run=str(folder.path), folder=str(results))
    _write(found, results, folder)
    return found


def _results(folder: RunFolder, to: str | Path | None, settings: Settings) -> Path:
    """Choose the folder for results and write the settings there now, so that an unwritable one is known."""
    results = Path(to).expanduser() if to is not None else folder.path / "diagnose"
    if to is None:
        must_stay_in(folder.path, results)
    write_json(results / "settings.json", portable(settings.resolved()))
    return results


def _write(found: Diagnosis, results: Path, folder: RunFolder) -> None:
    found.save(results)
    plot_margins(found, results / "margins.png")
    plot_slices(found, results / "slices.png")
    plot_triangle(folder, results / "triangle.png")


def _check(split: str, limit: int, batch_size: int) -> None:
    if limit < 2 or batch_size < 1:
        raise MmardError(
            f"limit is {limit}, batch_size {batch_size}; expected at least 2 images, for errors of means, and 1"
        )
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)


def _metadata(comparison: Comparison, settings: Settings, chosen: dict[str, Method]) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "teacher": settings.teacher,
        "data": settings.data.name,
        "images": len(comparison.images),
    }
    metadata |= {"threat": str(comparison.ball), "norm": comparison.ball.norm, "eps": comparison.ball.eps}
    if (judged := build_threat(settings)) != comparison.ball:
        metadata["judged_in"] = str(judged)
    return metadata | {"inner": {name: f"{m.inner} by {m.maximizer}" for name, m in chosen.items()}}


def _run_of(source: str | Path | RunFolder) -> RunFolder:
    folder = source if isinstance(source, RunFolder) else RunFolder(source)
    folder.settings()  # which says what is wrong with a folder that is no run's
    if not folder.best_file.is_file():
        raise MmardError(f"{folder.path} has no best.safetensors yet; let its training judge at least once")
    return folder


def _trusting(settings: Settings, methods: str | None) -> Settings:
    """Trust the methods that the user names for the comparison, which may be the run's own."""
    named = {name for spec in method_specs(USUAL if methods is None else methods).values() for name in names_of(spec)}
    return settings.trusting(settings.trust.also(named))


def _with_teacher(folder: RunFolder, words: dict[str, Any], given: Brought, trust: bool) -> Settings:
    words = words if given.images is None else {**words, "data.name": PYTHON}
    settings = read_settings(folder.path, words, trust=trust)
    must_be_used_in(settings, words, DIAGNOSIS)
    own = read_settings(folder.path).data.model_dump(mode="json")
    if is_trained_on(own, settings.data):
        must_be_cut_alike(own, settings.data, OF_THE_CUT, str(folder.path))
    if settings.teacher is None:
        raise MmardError(
            f"{folder.path} was trained without a teacher; name one to measure against: teacher=RUN_OR_CARD (--teacher)"
        )
    return settings


def as_trained(method: Method, folder: RunFolder) -> Method:
    """Restore the state of the method's terms from the last checkpoint, but for perturbations of training images.

    What learns in the outer loss alone is no part of the examples, and stays as it is.
    """
    inner = set(method.inner.modules())
    if modules := list(method.modules()):
        for module, saved in zip(modules, (folder.load() or {}).get("terms", ()), strict=False):
            if not isinstance(module, WarmStart) and (module in inner or not isinstance(module, Learned)):
                module.load_state_dict(saved)
    return method


def inner_processes(settings: Settings, own: Method, methods: str | None, own_attacks: bool) -> dict[str, Method]:
    """Build the methods by label, with the run's maximizer unless ``own_attacks``; others' states are as in a first step."""
    specs, mine = method_specs(USUAL if methods is None else methods), label_of(settings.method)
    built = {label: method_of(settings.model_copy(update={"method": spec})) for label, spec in specs.items()}
    if methods is None:
        others = {label: m for label, m in built.items() if str(m.inner) != str(own.inner)}
        built = {mine: own} | others
    built |= {mine: own} if mine in built else {}
    if own_attacks:
        return built
    shared = own.maximizer or Pgd(steps=10)
    return {label: replace(m, maximizer=shared) for label, m in built.items()}


def _diagnosis(
    comparison: Comparison, chosen: dict[str, Method], own: Method, folder: RunFolder, on_progress: OnProgress
) -> Diagnosis:
    total, done = len(chosen) * 2 + 4, 0

    def step(what: str, work: Callable[[], T]) -> T:
        nonlocal done
        on_progress(what, done, total)
        done += 1
        return work()

    x = comparison.images.batch(slice(None))[0]
    points = {name: step(f"{name}: examples", partial(comparison.examples, method)) for name, method in chosen.items()}
    natural = step("natural images", partial(comparison.boundary_records, x))
    strongest = step("direct attack", lambda: comparison.boundary_records(comparison.direct()))
    boundary_records = {
        name: step(f"{name}: distances", partial(comparison.boundary_records, at)) for name, at in points.items()
    }
    slices, titles = step("slices", partial(_slices, comparison, points, natural))
    triangles = {name: comparison.triangle(at) for name, at in points.items()}
    training = step("triangle", partial(_training, comparison, own, folder))
    on_progress("done", total, total)
    return Diagnosis({}, boundary_records, natural, strongest, triangles, training, slices, titles)


def _training(comparison: Comparison, own: Method, folder: RunFolder) -> dict[str, dict[str, dict[str, float]]]:
    """Estimate the triangle under the run's own method, at each checkpoint there is."""
    found = {}
    for file in (folder.best_file, folder.last_file):
        if file.is_file():
            at, epoch = comparison.with_student(file), metadata_of(file).get("epoch")
            with held_still(*at.networks.values()):
                found[f"{file.stem}, epoch {epoch}"] = at.triangle(at.examples(own))
    return found


def _slices(
    comparison: Comparison, points: dict[str, Tensor], natural: BoundaryRecord
) -> tuple[dict[str, list[Slice]], list[str]]:
    """Cut slices of a few images that both networks classify rightly, near the teacher's boundary to far, by each x'."""
    distance = natural.linf if comparison.ball.norm == "linf" else natural.l2
    known = distance.isfinite() & natural.teacher_right & natural.student_right
    rows = (known if known.any() else torch.ones_like(known)).nonzero()[:, 0]
    order = rows[distance[rows].argsort()]
    picked = torch.stack([order[min(len(order) - 1, int(q * len(order)))] for q in COLUMNS]).to(
        comparison.images.labels.device
    )
    student, teacher = comparison.networks["student"], comparison.networks["teacher"]
    x, y, index = comparison.images.batch(picked)
    torch.manual_seed(comparison.seed)
    edge, far = Minimal(norm=comparison.ball.norm)(teacher, x, teacher(x).argmax(1))
    own, names, norm = (
        teacher(x).argmax(1),
        comparison.images.classes,
        "L∞" if comparison.ball.norm == "linf" else "L2",
    )
    beyond = teacher(edge).scatter(1, own[:, None], float("-inf")).argmax(1)
    titles = [
        f"image {index[i]}: “{names[y[i]]}”\nfor the teacher, “{names[beyond[i]]}” is {norm} {far[i]:.3f} away"
        for i in range(len(picked))
    ]
    cuts = {
        n: [cut(student, teacher, x[i], p[picked][i], edge[i], comparison.ball) for i in range(len(x))]
        for n, p in points.items()
    }
    return cuts, titles
