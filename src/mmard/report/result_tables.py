"""The tables of results in a report: accuracies, curves, classes, comparisons."""

import math
from collections.abc import Sequence
from typing import Any

from mmard.core.threat import in_255ths
from mmard.evaluation.scores import CLEAN, WORST
from mmard.report.study_tables import of_settings
from mmard.report.table import (
    DASH,
    Table,
    TableCell,
    difference_interval,
    interval,
    mean_and_sd,
    number,
    p_value,
    words,
)
from mmard.runs.by_class import ClassAccuracy, mean_accuracy_by_class
from mmard.runs.evaluation import JsonObject, section_of
from mmard.runs.groups import Group, accuracy, attacks_of, curve_of
from mmard.runs.judged import Judged, how_judged, judged_of, whose
from mmard.utils.numbers import mean_sd

MOST_TOLD = 20
"""Groups up to which a note tells of each."""
CHARTED = 20
"""Classes up to which they are drawn, and stand in their own order in the table."""


def accuracy_table(groups: Sequence[Group], main: str) -> Table | None:
    """Make the main table: mean ± sd over seeds, a row a group; of one run the interval over the test images."""
    attacks = worst_case_first(attacks_of(groups, main))
    if not attacks:
        return None
    rows = []
    for group in groups:
        cells = [_accuracy(group, main, attack) for attack in attacks]
        clean = mean_and_sd(group.mean_sd(lambda run: (run.best or {}).get("clean")))
        robust = mean_and_sd(group.mean_sd(lambda run: (run.best or {}).get("robust")))
        rows.append([words(group.name), *cells, clean, robust, _seeds(group, main)])
    titles = [attack if attack in (CLEAN, WORST) else f"{attack}, %" for attack in attacks]
    columns = [
        "runs",
        *(t if t.endswith("%") else f"{t}, %" for t in titles),
        "held-out clean, %",
        "held-out robust, %",
        "seeds",
    ]
    return Table("summary", "Accuracy", columns, rows, note=f"{_how(groups)}{_details(groups, main)}")


def worst_case_first(attacks: Sequence[str]) -> list[str]:
    """Put the figure that counts first: the worst case, or what stands for it; the rest keeps its order."""
    return sorted(attacks, key=lambda attack: attack != WORST)


def _accuracy(group: Group, main: str, attack: str) -> TableCell:
    found = [
        row for run in group.runs if main in run.evaluations and (row := run.evaluations[main].row(attack)) is not None
    ]
    if len(found) == 1:
        return interval(found[0]["accuracy"], found[0]["low"], found[0]["high"])
    return mean_and_sd(group.mean_sd(lambda run: accuracy(run, main, attack)))


def _seeds(group: Group, main: str) -> TableCell:
    """Count the runs; where some of them were not judged, say how many were."""
    judged, all_of_them = sum(main in run.evaluations for run in group.runs), len(group.runs)
    return number(all_of_them, "d") if judged in (0, all_of_them) else words(f"{judged} of {all_of_them}")


def _how(groups: Sequence[Group]) -> str:
    several = any(len(group.runs) > 1 for group in groups)
    text = "Mean ± sample standard deviation over seeds; a single run with" if several else "With"
    held_out = "Held-out: the best look during training, by which the checkpoint was chosen."
    return f"{text} Wilson's 95 % interval over the test images in brackets. {held_out}"


def _details(groups: Sequence[Group], main: str) -> str:
    of = [(group.name, run.evaluations[main]) for group in groups for run in group.runs if main in run.evaluations]
    evaluation = [j for _, j in of]
    text = f" Evaluation {main}: {how_judged(_judged(groups, main))}."
    for attack in attacks_of(groups, main):
        if attack not in (CLEAN, WORST):
            text += (
                f" {attack}: {whose((name, row['detail']) for name, j in of if (row := j.row(attack)) is not None)}."
            )
    seeds = _joined(str(seed) for j in evaluation if (seed := j.metadata.get("seed")) is not None)
    sizes = _joined(str(size) for j in evaluation if (size := j.request.get("batch_size")) is not None)
    text += f" Seed of the attacks: {seeds}." if seeds else ""
    text += f" Images attacked at once: {sizes}." if sizes else ""
    made = _joined(j.versions for j in evaluation if j.versions)
    text += f" Judged with {made}." if made else ""
    return f"{text} Worst case: each image's worst of these."


def _judged(groups: Sequence[Group], main: str) -> list[tuple[str, Judged]]:
    """List how each run was judged in the main evaluation, under its group's name."""
    of = [(group.name, run, run.evaluations[main]) for group in groups for run in group.runs if main in run.evaluations]
    return [(name, judged_of(j.metadata, j.samples, run.settings)) for name, run, j in of]


def _joined(found: Any) -> str:
    return " or ".join(dict.fromkeys(found))


def runs_table(groups: Sequence[Group], main: str) -> Table | None:
    """Make the table of every run with its intervals."""
    attacks = worst_case_first(attacks_of(groups, main))
    if not attacks or sum(len(group.runs) for group in groups) < 2:
        return None
    rows = []
    for group in groups:
        for run in group.runs:
            found = [run.evaluations[main].row(a) if main in run.evaluations else None for a in attacks]
            cells = [TableCell(DASH) if r is None else interval(r["accuracy"], r["low"], r["high"]) for r in found]
            best = run.best or {}
            rows.append(
                [words(run.name), words(run.seed), *cells, number(best.get("epoch"), "d"), number(run.epochs[0], "d")]
            )
    columns = ["run", "seed", *(f"{attack}, %" for attack in attacks), "best epoch", "epochs"]
    return Table(
        "runs", "Each run", columns, rows, words=2, note="In brackets Wilson's 95 % interval over the test images."
    )


def radii_table(groups: Sequence[Group], main: str) -> Table | None:
    """Make the table of accuracy at each radius, a row a radius, a column a group."""
    curves = {group.name: [c for run in group.runs if (c := curve_of(run, main)) is not None] for group in groups}
    curves = {name: found for name, found in curves.items() if found}
    if not curves:
        return None
    at = sorted({radius for found in curves.values() for c in found for radius in c["radii"]})
    rows = []
    for radius in at:
        cells = []
        for found in curves.values():
            values = [c["accuracy"][c["radii"].index(radius)] for c in found if radius in c["radii"]]
            cells.append(mean_and_sd(mean_sd(values) if values else None))
        rows.append([TableCell(in_255ths(radius) if radius else "0", radius), *cells])
    columns = ["radius", *(f"{name}, %" for name in curves)]
    return Table("radii", "Accuracy against the radius", columns, rows, note="Mean ± sd over seeds.")


def evaluations_table(groups: Sequence[Group], main: str) -> Table | None:
    """Make the table of the evaluations that are not the main one, a row an attack."""
    rows = []
    for group in groups:
        for run in group.runs:
            for e in run.evaluations.values():
                if e.name != main and e.attacked:
                    rows += [
                        [words(run.name), words(e.name), words(run.threat(e)), words(r["attack"]), words(r["detail"]),
                         interval(r["accuracy"], r["low"], r["high"]), number(r["samples"], ",d")]
                        for r in e.rows
                    ]  # fmt: skip
    columns = ["run", "evaluation", "threat", "attack", "how", "accuracy, %", "images"]
    return Table("evaluations", "Other evaluations", columns, rows, words=5) if rows else None


def differences_table(results: JsonObject, groups: Sequence[Group], main: str) -> Table | None:
    """Make the table of paired differences from a study's results.json; none where that is of other accuracies than shown."""
    given = results.get("comparisons")
    if not _are_of(results.get("rows"), groups, main):
        return None
    rows, shown = [], []
    for c in given if isinstance(given, list) else []:
        try:
            if int(c["n"]) < 2 or not _by_seed(c, results["rows"]):
                continue
            reach = difference_interval(c["low"], c["high"])
            name, against = f"{c['label']} − {c['baseline']}", words(c["attack"])
            tests = [p_value(c[key]) for key in ("p_t", "p_exact")]
            rows.append([words(name), against, number(c["n"], "d"), number(c["mean"], "+.2f"), reach, *tests])
            shown.append({"settings": list(map(int, c.get("settings", [1])))})
        except (KeyError, TypeError, ValueError):
            continue  # a file of another version
    note = (
        f"A pair is two runs with the same seed and the same other labels.{of_settings(shown)} Student's 95 % interval and "
        "paired t-test; the exact test flips signs, and with n pairs its p cannot go under 2/2ⁿ. Two-sided, not corrected for "
        "the number of tests."
    )
    columns = ["difference, points", "of", "pairs", "mean", "95 % interval", "p (t)", "p (sign flips)"]
    return Table("comparisons", "Paired differences", columns, rows, words=2, note=note) if rows else None


def _by_seed(comparison: Any, told: Any) -> bool:
    """Tell whether each of its pairs has a seed of its own: an older version took cells of one seed for independent pairs."""
    label = comparison["label"]
    seeds = [row.get("seed") for row in told if label in section_of(row, "labels").values()]
    return "settings" in comparison or len(set(seeds)) == len(seeds)


def _are_of(told: Any, groups: Sequence[Group], main: str) -> bool:
    """Tell whether a study's rows have the accuracies of the evaluation that is shown: it may have been made anew since.

    An older version compared across threats and test images, too: where its rows do not say how they were judged, all must
    have been judged alike.
    """
    shown = {run.name: run.evaluations[main].rows for group in groups for run in group.runs if main in run.evaluations}
    now = {name: {row["attack"]: row["accuracy"] for row in rows} for name, rows in shown.items()}
    then = (
        {row.get("run"): row.get("accuracies") for row in told if isinstance(row, dict)}
        if isinstance(told, list)
        else {}
    )
    if not then or not all(now.get(str(name)) == accuracies for name, accuracies in then.items()):
        return False
    judged = [one for _, one in _judged(groups, main)]
    return all("judged" in row for row in told) or all(one.alike(judged[0]) for one in judged)


def classes_table(groups: Sequence[Group], main: str) -> Table | None:
    """Make the table of robust and clean accuracy by class, a column a group."""
    found = [(group, by) for group in groups if (by := mean_accuracy_by_class(group, main)) is not None]
    if not found:
        return None
    first = found[0][1]
    names = list(dict.fromkeys(name for _, by in found for name in by.names))
    if many := len(names) > CHARTED:
        names.sort(key=lambda name: first.robust[first.names.index(name)] if name in first.names else math.inf)
    alike = all((by.names, by.count) == (first.names, first.count) for _, by in found)
    kinds = [] if alike else ["images"]
    titles = [
        f"{group.name}: {what}{_unless(by.source, main)}"
        for group, by in found for what in (*kinds, "worst case, %", "clean, %")
    ]  # fmt: skip
    titles = [t.partition(": ")[2] for t in titles] if len(found) == 1 else titles
    shared = ["images"] if alike else []
    rows = [
        [
            words(name),
            *(_count(first, name) for _ in shared),
            *(c for _, by in found for c in _of_class(by, name, kinds)),
        ]
        for name in names
    ]
    told = [f"{group.name}: {by.names[by.worst]}, {by.robust[by.worst]:.1f} %" for group, by in found[:MOST_TOLD]]
    worst = "; ".join([*told, *([f"and {len(found) - MOST_TOLD:,} groups more"] if len(found) > MOST_TOLD else [])])
    order = f" The least robust of {found[0][0].name} first." if many else ""
    shown = f"Of {main}" if main in {by.source for _, by in found} else f"Of {found[0][1].source}"
    note = f"Worst class – {worst}.{order} Means over seeds. {shown}: right under every attack of it."
    return Table("classes", "Accuracy by class", ["class", *shared, *titles], rows, note=note)


def _unless(source: str, main: str) -> str:
    """Name an evaluation that is not the main one, in brackets."""
    return "" if source == main else f" (of {source})"


def _count(by: ClassAccuracy, name: str) -> TableCell:
    return number(by.count[by.names.index(name)] if name in by.names else None, ",d")


def _of_class(by: ClassAccuracy, name: str, kinds: Sequence[str]) -> list[TableCell]:
    """Make the cells of a class: its images, where groups have other ones, and its accuracies."""
    counts = [_count(by, name) for _ in kinds]
    if name not in by.names:
        return [*counts, TableCell(DASH), TableCell(DASH)]
    k = by.names.index(name)
    return [*counts, number(by.robust[k], tint=by.robust[k] / 100), number(by.clean[k])]
