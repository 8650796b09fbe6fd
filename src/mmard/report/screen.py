"""Tables of results, for the screen and for Markdown."""

import statistics
from collections.abc import Mapping
from typing import Any

from rich.text import Text

from mmard.evaluation.scores import CLEAN, WORST, Scores
from mmard.report.table import Table, TableCell, words
from mmard.runs.judged import how_judged, judged_by
from mmard.utils.terminal import ScreenTable, line

Rows = list[dict[str, Any]]
MOST_ACROSS = 50  # characters of the attacks' names: the models' names need the rest of a narrow screen


def scores_table(title: str, scores: Scores) -> ScreenTable:
    """Make the table of one model: accuracy under each attack with its interval and time."""
    rows, told = scores.rows(), how_judged([("", judged_by(scores))])
    table = ScreenTable(
        title=title,
        title_justify="left",
        caption=f"{told}; 95 % interval: Wilson, over these; one training run",
    )
    for name, justify in (
        ("attack", "left"),
        ("accuracy", "right"),
        ("95 %", "right"),
        ("seconds", "right"),
        ("how", "left"),
    ):
        table.add_column(name, justify=justify, no_wrap=name == "attack")
    for r in rows if _attacked(rows) else rows[:1]:
        table.add_row(
            r["attack"], f"{r['accuracy']:.2f} %", f"{r['low']:.1f}–{r['high']:.1f}", f"{r['seconds']:.1f}", r["detail"]
        )
        for s in r.get("stages", ()):  # what each of AutoAttack's attacks left and broke
            how = f"broke {s['broken']:,} of {s['attacked']:,}"
            table.add_row(f"  {s['stage']}", f"{s['accuracy']:.2f} %", "", f"{s['seconds']:.1f}", how)
    return table


def checks_lines(name: str, metadata: Mapping[str, Any]) -> list[Text]:
    """Say what the checks of an evaluation found, three lines a finding, or that they found nothing."""
    checked = metadata.get("checked", {"how": "none"})
    if checked["how"] == "none":
        return [line(f"{name}: nothing was checked")]
    lines = []
    for check in metadata["checks"]:
        colour = {"error": "bold red", "warning": "yellow"}.get(check["level"], "bold")
        lines.append(line((f"{check['level']}: {check['name']}", colour), f"  {check['said']}"))
        lines += [line(f"  means: {check['means']}"), line(f"  do: {check['do']}")]
    if all(check["level"] == "note" for check in metadata["checks"]):
        probed = f", with further attacks on {checked['probed']} images" if checked["probed"] else ""
        found = f"checks ({checked['how']}) found nothing amiss{probed}; {checked['seconds']:.1f} s"
        lines.append(line(f"{name}: {found}"))
    return lines


def bench_table(figures: dict[str, Any]) -> ScreenTable:
    """Make the table of the speed of a step: ours, plain and base side by side."""
    passes = ", ".join(
        f"{name} {p['forward']} forward {p['backward']} backward" for name, p in figures["passes"].items()
    )
    title = f"{figures['student']} from {figures['teacher']}, batch {figures['batch']}, {figures['device']}, {figures['precision']}"
    caption = f"{figures['gflop']:.0f} GFLOP a step ({passes}); matrix peak {figures['matrix_peak_gflops']:.0f} GFLOP/s"
    t = figures["teacher_forward"]
    caption += f"\nthe teacher's forward pass: {t['milliseconds']:.0f} ms, {t['share_of_peak']:.0%} of the peak"
    for key, what in (("faster_than_plain", "times faster than plain"), ("cost_over_base", "times the base's time")):
        if key in figures:
            r, n = figures[key], figures["repeats"]
            of = f", median of {n} pairs, from {r['low']:.2f} to {r['high']:.2f}" if n > 1 else ", of one pair"
            caption += f"\n{r['median']:.2f} {what}{of}"
    if (m := figures["memory"])["fixed_mib"] is not None:
        caption += f"\nours takes {m['fixed_mib']:.0f} MiB + {m['mib_an_image']:.1f} MiB an image: {m['images_that_fit']:,} fit"
    table = ScreenTable(title=title, title_justify="left", caption=caption, caption_justify="left")
    for name in ("step", "ms", "images/s", "share of peak", "peak MiB"):
        table.add_column(name, justify="left" if name == "step" else "right")
    for name, ms in figures["milliseconds"].items():
        share, memory = figures["share_of_peak"].get(name), figures["peak_mib"][name]
        cells = [f"{ms:.0f}", f"{figures['images_per_second'][name]:.1f}", f"{share:.0%}" if share else "–"]
        table.add_row(name, *cells, f"{memory:.0f}" if memory else "–")
    return table


def to_accuracy_table(record: Mapping[str, Any]) -> ScreenTable:
    """Make the table of seconds until an accuracy: a method a row, the median of its runs and the range of their seconds.

    What each row's method is, with its settings, stands below the table: beside seven figures it fits no narrow screen.
    """
    methods = record["methods"]
    table = ScreenTable(
        title=f"Training until {record['attack']} leaves {record['accuracy']:g} % of the held-out images right",
        title_justify="left",
        caption="\n".join([*(f"{i}: {label}" for i, label in enumerate(methods, 1)), *_where(record)]),
        caption_justify="left",
    )
    for head in ("#", "seconds", "epochs", "steps", "images/s", "held-out %", "test %", "all epochs, s"):
        table.add_column(head, justify="right", overflow="fold", no_wrap=head == "seconds")
    for i, method in enumerate(methods.values(), 1):
        table.add_row(str(i), *_to_accuracy_cells(method))
    return table


def _to_accuracy_cells(method: Mapping[str, Any]) -> list[str]:
    runs, taken = method["runs"], method["seconds"]
    missed = sum(not run["reached"] for run in runs)
    seconds = ["not reached" if taken["median"] is None else f"{taken['median']:.1f}"]
    if len(runs) > 1 and taken["median"] is not None:
        seconds.append(f"from {taken['low']:.1f}" if missed else f"{taken['low']:.1f}–{taken['high']:.1f}")
    if missed and len(runs) > 1:
        seconds.append(f"{missed} of {len(runs)} not")

    def middle(key: str) -> float:
        return float(statistics.median(run[key] for run in runs))

    whole = all(run["epochs"] == method["planned_epochs"] for run in runs)
    epochs = f"{middle('epochs'):g} of {method['planned_epochs']}"
    counts = [f"{middle('steps'):,.0f}", f"{middle('images_per_second'):,.0f}"]
    accuracies = [f"{middle('held_out'):.2f}", f"{middle('test'):.2f}"]
    schedule = f"{'' if whole else '≈ '}{middle('schedule_seconds'):.1f}"
    return ["\n".join(seconds), epochs, *counts, *accuracies, schedule]


def _where(record: Mapping[str, Any]) -> list[str]:
    """Say on what data and machines the runs were made."""
    runs = [run for method in record["methods"].values() for run in method["runs"]]
    images, tested = record["images"], "/".join(f"{n:,}" for n in sorted({run["test_images"] for run in runs}))
    machines = {f"{run['device']}, threads: {run['threads']}, {run['precision']}" for run in runs}
    seeds = max(len(method["runs"]) for method in record["methods"].values())
    return [
        f"{record['data']}, {record['threat']}; images: {images['train']:,} train, {images['held_out']:,} held out, {tested} test",
        *sorted(machines),
        "one run of each method" if seeds == 1 else f"median, and below it the range, of {seeds} runs of each method",
    ]


def compare_table(results: Mapping[str, Scores]) -> ScreenTable:
    """Make the table of several models: an attack a column, or a model a column where the attacks are more than fit across."""
    rows_of = {name: scores.rows() for name, scores in results.items()}
    attacks, told = _attacks(rows_of), _judged(results)
    title = "Accuracy on the test images, in percent"
    table = ScreenTable(title=title, title_justify="left", caption=told, caption_justify="left")
    names, cells = list(results), [cells for _, cells in _cells(rows_of, attacks)]
    across = sum(map(len, attacks)) <= MOST_ACROSS
    table.add_column("model" if across else "attack")
    for head in attacks if across else names:
        table.add_column(head, justify="right", overflow="fold")
    rows = zip(names, cells, strict=True) if across else zip(attacks, zip(*cells, strict=True), strict=True)
    for name, row in rows:
        table.add_row(name, *row)
    return table


def _judged(results: Mapping[str, Scores]) -> str:
    return how_judged((name, judged_by(scores)) for name, scores in results.items())


def compare_markdown(results: Mapping[str, Scores]) -> str:
    """Write the table of several models as Markdown."""
    rows_of = {name: scores.rows() for name, scores in results.items()}
    attacks = _attacks(rows_of)
    rows = [[words(name), *map(TableCell, cells)] for name, cells in _cells(rows_of, attacks)]
    table = Table("models", "Accuracy on the test images", ["model", *attacks], rows)
    return f"{table.grid()}\n\n{_judged(results)}.\n"


def _attacked(rows: Rows) -> bool:
    """Tell whether anything attacked: else there is no worst case, but clean accuracy by another name."""
    return any(row["attack"] not in (CLEAN, WORST) for row in rows)


def _attacks(results: Mapping[str, Rows]) -> list[str]:
    """List all the attacks, the worst case last."""
    any_attacked = any(map(_attacked, results.values()))
    found = dict.fromkeys(r["attack"] for rows in results.values() for r in (rows if any_attacked else rows[:1]))
    return sorted(found, key=lambda attack: attack == WORST)


def _cells(results: Mapping[str, Rows], attacks: list[str]) -> list[tuple[str, list[str]]]:
    found = {name: {r["attack"]: f"{r['accuracy']:.2f}" for r in rows} for name, rows in results.items()}
    return [(name, [by_attack.get(a, "–") for a in attacks]) for name, by_attack in found.items()]
