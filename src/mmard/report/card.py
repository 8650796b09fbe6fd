"""A model card: README.md beside a run's weights, with the front matter of the Hugging Face hub."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mmard.core.threat import in_255ths
from mmard.evaluation.scores import CLEAN, WORST
from mmard.models.foreign import GIVEN
from mmard.models.weights import metadata_of
from mmard.report.export_table import export_table
from mmard.report.table import Table, interval, words
from mmard.runs.evaluation import BEST, EvaluationRecord, section_of
from mmard.runs.exports import is_current, read_exports
from mmard.runs.findings import findings_of
from mmard.runs.folder import RunFolder, title_of
from mmard.runs.groups import Group, main_evaluation_of
from mmard.runs.record import Run, data_name_of, is_run, read_judged, read_run, threat_of
from mmard.utils.errors import MmardError
from mmard.utils.files import read_json, write_text
from mmard.utils.portable_paths import portable
from mmard.utils.trust import Trust

MARK = "<!-- written by mmard; mmard eval writes it anew -->"
HUB_LICENCES = (
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "gpl-3.0",
    "lgpl-3.0", "mpl-2.0", "openrail", "unlicense", "other", "unknown",
)  # fmt: skip
"""Names of licences as the hub spells them; whatever else stands under ``license_name``."""
MOST_NAMES = 20


def write_card(folder: Path, formula: str = "") -> bool:
    """Write the card of a run folder in one step, or of an evaluated file of weights; somebody else's file stays as it is.

    Args:
        folder: its card is README.md in it; that of weights.pt is weights-card.md, or weights.pt-card.md where the former is of
            another file.
        formula: the method as it reads in its paper; empty where it is not known.

    Returns whether there is a card now.

    Raises:
        MmardError: when the folder is no run folder, or the disk is full.
    """
    path = folder / "README.md"
    if (
        folder.is_file()
        and _text(path := folder.with_name(f"{folder.stem}-card.md"))
        and _of(folder) not in _text(path)
    ):
        path = folder.with_name(f"{folder.name}-card.md")
    if path.is_file() and MARK not in _text(path):
        return False
    if folder.is_file():
        write_text(path, card(read_judged(folder, folder.stem)))
        return True
    write_text(path, card(read_run(folder.resolve(), title_of(folder), formula)))
    return True


def _text(path: Path) -> str:
    """Read a card; empty where there is none."""
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _of(weights: Path) -> str:
    """Write the words by which the card of a file of weights names it."""
    return f"Weights: `{weights.name}`."


def card(run: Run) -> str:
    """Write the card's text: front matter, then words for people."""
    front = yaml.safe_dump(front_matter(run), sort_keys=False, allow_unicode=True, width=1000)
    s = run.settings
    told = f"A `{s.get('student')}` classifier for {data_name_of(s)}"
    if not run.trained_here:
        trained = [f"{told}, trained elsewhere and judged by `mmard`. {_of(run.path)}"]
        use = []
    else:
        trained = [
            f"{told}, trained to resist {threat_of(s)} by `mmard`.",
            f"## How it was trained\n\n{_training(run)}",
        ]
        module = (
            ", MODULE" if str(s.get("student")).startswith(GIVEN) else ""
        )  # one like it, which only its program has
        use = [USE.replace("FOLDER", f"FOLDER{module}")]
    parts = [
        f"---\n{front}---\n{MARK}",
        f"# {run.name}",
        *trained,
        f"## How it was judged\n\n{_figures(run)}",
        *_exported(run),
        f"## What to know\n\n{_findings(run)}",
        *use,
        f"## Licence\n\n{_licence_words(s)}",
    ]
    return "\n\n".join(parts) + "\n"


USE = (
    "## Use\n\n```python\nimport mmard\n\nmodel = mmard.load_model(FOLDER)  # pixels in [0, 1] → logits; "
    "normalisation is inside\n```\n\n`best.safetensors` is the checkpoint with the best robust accuracy on held-out images, "
    "`last.safetensors` that of the last epoch."
)


def _training(run: Run) -> str:
    """Write the method, its facts, and how far it got."""
    longest = max(map(len, re.findall("`+", run.formula)), default=0)
    fence = "`" * max(3, longest + 1)  # a folder may be anybody's: its formula must not end the block
    method = f"{fence}\n{run.formula}\n{fence}" if run.formula else f"`{portable(run.settings.get('method'))}`"
    epochs, planned = run.epochs
    end = f"{epochs} of {planned} epochs, seed {run.seed}. All settings: `settings.yaml`."
    return f"{method}\n\n{_training_facts(run)}\n\n{end}"


def front_matter(run: Run) -> dict[str, Any]:
    """Make the hub's fields: licence, tags, data sets, metrics, and the figures that stand as a ``model-index``."""
    s, data = run.settings, data_name_of(run.settings)
    name = method_name(s)
    front: dict[str, Any] = licence_of(s) | {"pipeline_tag": "image-classification"}
    front["tags"] = ["adversarial-robustness", "image-classification"]
    if run.trained_here:
        front["library_name"] = "mmard"
        front["tags"] += ["knowledge-distillation", "safetensors", name]
    front |= {"datasets": [data], "metrics": ["accuracy"]}
    results = [
        _result(evaluation, data_of_evaluation(run, evaluation), run.threat(evaluation))
        for evaluation in run.evaluations.values()
        if (evaluation.weights == BEST or not run.trained_here) and not evaluation.errors
    ]
    index: dict[str, Any] = {"name": run.name, "results": results}
    return front | ({"model-index": [index]} if results else {"model_name": run.name})


def data_of_evaluation(run: Run, evaluation: EvaluationRecord) -> str:
    """Name the data that an evaluation was made on: its own, where it says so, else those of the training."""
    own = evaluation.metadata.get("settings")
    theirs = data_name_of(own if isinstance(own, dict) and own.get("data") else run.settings, "test")
    return data_name_of(run.settings) if theirs == data_name_of(run.settings, "test") else theirs


def method_name(settings: Mapping[str, Any]) -> str:
    """Name the method of settings without its parameters: ``mmard``."""
    method = settings.get("method")
    return str(method.get("name") if isinstance(method, dict) else method)


def licence_of(settings: Mapping[str, Any]) -> dict[str, str]:
    """Make the hub's licence fields from the setting ``licence``."""
    given = str(settings.get("licence") or "unknown")
    return {"license": given.lower()} if given.lower() in HUB_LICENCES else {"license": "other", "license_name": given}


def _result(evaluation: EvaluationRecord, data: str, ball: str) -> dict[str, Any]:
    """Describe an evaluation; each metric is named after its attack with number and length of steps, start and eps."""
    metrics = []
    for row in evaluation.rows:
        name = f"Accuracy, {attack_label(row, ball)}, {evaluation.samples} test images"
        metrics.append({"type": "accuracy", "name": name, "value": round(row["accuracy"], 3)})
    task = {"type": "image-classification", "name": "Image classification under attack"}
    return {"task": task, "dataset": {"type": data, "name": data, "split": "test"}, "metrics": metrics}


def attack_label(row: Mapping[str, Any], threat: str) -> str:
    """Describe an attack and its threat model: ``PGD-20 (cross-entropy, 20 steps of 2/255, start uniform; L∞ 8/255)``."""
    if row["attack"] == CLEAN:
        return "clean"
    if row["attack"] == WORST:
        return f"worst case of all these attacks for each image ({threat})"
    return f"{row['attack']} ({row['detail']}; {threat})"


def _own_radius(s: Mapping[str, Any]) -> str:
    """Describe the ball in which examples were made, where it is not the threat's."""
    eps = section_of(s, "attack").get("eps")
    return f", its examples made within {in_255ths(float(eps))}" if isinstance(eps, int | float) else ""


def _training_facts(run: Run) -> str:
    s, teacher = run.settings, run.settings.get("teacher")
    lines = [f"- **Data**: {data_name_of(s)}, pixels in [0, 1]{_split_words(section_of(s, 'data'))}", *_classes(run)]
    lines.append(f"- **Threat**: {threat_of(s)} in training{_own_radius(s)}; in judging as each table says")
    lines.append(
        f"- **Teacher**: {f'`{portable(teacher)}`{_of_teacher(Path(str(teacher)), run.path)}' if teacher else 'none'}"
    )
    lines += [f"- **Before it taught**, the {line}" for line in run.teacher_checks]
    lines += [f"- **The run** was {line}" for line in run.history]
    if run.precision:
        lines.append(f"- **Precision**: {run.precision} in training, float32 in judging")
    others = s.get("teachers")
    lines += [
        f"- **{name}**: `{portable(source)}`" for name, source in (others.items() if isinstance(others, dict) else ())
    ]
    return "\n".join(lines)


def _split_words(data: Mapping[str, Any]) -> str:
    """Say which test images were cut off the training images, and which images were trained on beside these."""
    share, extra = data.get("test_split"), data.get("extra")
    words = ""
    if isinstance(share, int | float):
        words += (
            f"; {share:.0%} of the images, cut off by class and seed {data.get('test_seed', 0)}, are the test images"
        )
    if extra:
        ratio = data.get("extra_ratio")
        words += (
            f"; {f'{ratio:.0%}' if isinstance(ratio, int | float) else 'a part'} of each batch are extra images from "
        )
        words += f"`{Path(str(extra)).name}`"
    return words


def _classes(run: Run) -> list[str]:
    """Name the classes in the order of the outputs, the first of many; nothing where the weights do not say."""
    try:
        names = metadata_of(run.path / BEST).get("classes")
    except MmardError:
        return []
    if not isinstance(names, list) or names == list(map(str, range(len(names)))):  # numbers say nothing
        return []
    names = [" ".join(str(name).split()) for name in names]
    more = f" ... ({len(names):,} in all, in the header of the weights)" if len(names) > MOST_NAMES else ""
    return [f"- **Classes**, in the order of the outputs: {', '.join(names[:MOST_NAMES])}{more}"]


def _of_teacher(path: Path, run: Path) -> str:
    """Read the teacher's card or settings; empty where it is not here, or not this user's."""
    try:
        Trust(folder=run).must_allow_place(str(path), "teacher")
        if path.suffix == ".json":
            given = read_json(path)
            told = [str(given[key]) for key in ("architecture", "source") if given.get(key)]
            return f" ({', '.join([*told, 'licence ' + str(given.get('licence') or 'not stated')])})"
        if is_run(path):
            s = RunFolder(path).settings()
            return f" ({s.get('student')}, by {method_name(s)}, licence {s.get('licence') or 'not stated'})"
    except MmardError:
        pass
    return ""


def _figures(run: Run) -> str:
    if not run.evaluations:
        return "Not judged on test images yet: `mmard eval` on this folder does it, and writes this card anew."
    parts = []
    for evaluation in run.evaluations.values():
        ball = run.threat(evaluation)
        rows = [[words(attack_label(r, ball)), interval(r["accuracy"], r["low"], r["high"])] for r in evaluation.rows]
        judged = data_of_evaluation(run, evaluation)
        of = "" if judged == data_name_of(run.settings) else f" of {judged}"
        title = f"{evaluation.weights}, {ball}, {evaluation.samples:,} test images{of} (eval/{evaluation.name})"
        notes = [f"Judged with {evaluation.versions}."] if evaluation.versions else []
        notes += [f"These figures do not stand: {'; '.join(errors)}."] if (errors := evaluation.errors) else []
        parts.append(Table("figures", title, ["attack", "accuracy, %"], rows, note=" ".join(notes)).markdown())
    return (
        "\n".join(parts)
        + "\nIn brackets Wilson's 95 % interval over the test images; it says nothing of other training seeds."
    )


def _exported(run: Run) -> list[str]:
    """Write what was measured of exported files, in a section of its own; none where nothing was, or it cannot be read."""
    try:
        record = read_exports(run.path)
    except MmardError:
        return []
    if record is None:
        return []
    left = [row for row in record.rows if row.file is None or is_current(run.path, row)]
    if not any(row.file for row in left):
        return []
    table = export_table(record.changed(rows=left))
    return [f"## Exported\n\n{table.grid()}\n\n{table.note}"]


def _findings(run: Run) -> str:
    groups = [Group(run.name, (run,))]
    lines = []
    for finding in findings_of(groups, main_evaluation_of(groups)):
        places = [place for place in finding.where if place != run.name]
        said = "; ".join(place.removeprefix(f"{run.name}: ").removeprefix(f"{run.name}, ") for place in places)
        said = said.replace(str(run.path), "FOLDER") if run.path.is_absolute() else said  # it travels with the folder
        start = "" if finding.level == "note" else f"**{finding.level.capitalize()}.** "
        lines.append(f"- {start}{finding.text}{f' ({said})' if said else ''} {finding.advice}".rstrip())
    return "\n".join(lines) or "Nothing to warn of."


def _licence_words(settings: Mapping[str, Any]) -> str:
    given = settings.get("licence")
    what = (
        f"These weights: {given}."
        if given
        else "Not stated: the setting `licence` says what one may do with these weights."
    )
    return f"{what} The data and the teacher have licences of their own, which may bind what is made of them."
