"""A study's results, and several diagnoses, as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmard.evaluation.scores import CLEAN, WORST
from mmard.report.table import Table, TableCell, difference_interval, interval, mean_and_sd, number, p_value, words
from mmard.runs.judged import Judged, how_judged, whose
from mmard.utils.errors import MmardError
from mmard.utils.numbers import is_number, mean_sd

HELD_OUT = ("held-out clean", "held-out robust")
SECONDS = "seconds an epoch"
Figures = Mapping[str, Any]


def study_markdown(results: Figures, figure: str) -> str:
    """Write mean and sd over seeds, comparisons, and the figure; ``figure`` is the link to it."""
    parts = [results["about"], means_table(results).grid(), _how(results), *_not_compared(results)]
    testable = [c for c in results["comparisons"] if c["n"] > 1]
    if testable:
        told = f"{len(testable)} paired differences, with intervals and tests"
        table, caution = comparisons_table(testable).grid(), _caution(testable, results["rows"])
        parts.append(f"<details><summary>{told}</summary>\n\n{table}\n\n{caution}\n\n</details>")
    elif results["comparisons"]:
        parts.append("One seed says nothing of a difference: it takes several.")
    if untenable := errors_of(results):
        parts.insert(3, f"**Figures that do not stand**, by their own checks: {'; '.join(untenable)}.")
    if results["missing"]:
        parts.append(f"**Not there yet:** {', '.join(results['missing'])}.")
    parts.append(f"![accuracy and cost of each run]({figure})")
    return "\n\n".join(part for part in parts if part) + "\n"


def errors_of(results: Figures) -> list[str]:
    """List the cells whose figures do not stand, each with the error that the checks of its evaluation found."""
    return [f"{row['run']} ({error})" for row in results["rows"] for error in row["errors"]]


def apart_of(results: Figures) -> list[str]:
    """List the differences that are not taken, each with the number of its pairs."""
    return [f"{c['label']} − {c['baseline']} ({c['n']} pair{'s' * (c['n'] > 1)})" for c in results["apart"]]


def _not_compared(results: Figures) -> list[str]:
    left = ", ".join(apart_of(results))
    why = "the two were judged under another threat, or on other test images"
    return [f"**No difference is taken** of {left}: {why}."] if left else []


def judged_in(results: Figures) -> str:
    """Describe how the cells were judged; where that differs, whose is which."""
    return how_judged((_name(row), Judged(**row["judged"])) for row in results["rows"])


def _name(row: Figures) -> str:
    """Name the group of a cell by its labels."""
    return "/".join(row["labels"].values())


def means_table(results: Figures) -> Table:
    """Make the table of means over seeds, a row a group."""
    keys = (*results["attacks"], *HELD_OUT, SECONDS)
    keys = tuple(key for key in keys if any(key in group["figures"] for group in results["groups"]))
    columns = [*results["axes"], "seeds", *(f"{key}, best epoch" if key in HELD_OUT else key for key in keys)]
    rows = [
        [*map(words, g["labels"].values()), number(len(g["seeds"]), "d"), *(_figure(g, key) for key in keys)]
        for g in results["groups"]
    ]
    return Table("means", "Accuracy and cost", columns, rows, words=len(results["axes"]))


def _figure(group: Figures, key: str) -> TableCell:
    """Make a cell ``52.1 ± 1.3``; with one seed the interval over the test images in its place."""
    found = group["figures"].get(key)
    if found is None:
        return number(None)
    images = (group["interval"] or {}).get(key)
    if found["sd"] is None and images:
        return interval(found["mean"], *images)
    return mean_and_sd((found["mean"], found["sd"]))


def _how(results: Figures) -> str:
    rows, text = results["rows"], "Accuracy in percent: mean ± sample standard deviation (n − 1) over seeds"
    if any(len(g["seeds"]) == 1 for g in results["groups"]):
        text += "; with one seed, in brackets, Wilson's 95 % interval over the test images"
    text += f". {judged_in(results)}."
    for attack in results["attacks"]:
        if attack not in (CLEAN, WORST):
            text += f" {attack}: {whose((_name(r), r['details'][attack]) for r in rows if attack in r['details'])}."
    mean = " (mean, where an inner process changes on the way)" if results.get("changing") else ""
    text += f" Seconds an epoch: median{mean}, on the machine and with as many runs at once as there were"
    apart = len({row[SECONDS] is None for row in rows}) > 1
    return text + ("; of runs on a GPU alone, as those on CPUs took other times." if apart else ".")


def comparisons_table(comparisons: Sequence[Figures]) -> Table:
    """Make the table of paired differences and their tests, a row a comparison."""
    columns = ["difference in points", "pairs", "mean", "sd", "95 % interval (t)", "p (t)", "p (sign flips)"]
    rows = [
        [
            words(f"{c['label']} − {c['baseline']}, {c['attack']}"),
            number(c["n"], "d"),
            number(c["mean"], "+.2f"),
            number(c["sd"], ".2f"),
            difference_interval(c["low"], c["high"]),
            p_value(c["p_t"]),
            p_value(c["p_exact"]),
        ]
        for c in comparisons
    ]
    return Table("comparisons", "Paired differences", columns, rows)


def of_settings(comparisons: Sequence[Figures]) -> str:
    """Say how many pairs of one seed count as one, in a sentence after that on pairs; empty where each has a seed of its own."""
    counts = sorted({count for c in comparisons for count in c["settings"]})
    if counts in ([], [1]):
        return ""
    many = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f" Pairs of one seed are not independent, and count as one: the mean over the {many} settings of each seed."


def _caution(comparisons: Sequence[Figures], rows: Sequence[Figures]) -> str:
    pairs = min(c["n"] for c in comparisons)
    floor = f"{2 / 2**pairs:.3g}"
    first, *others = [Judged(**row["judged"]) for row in rows]
    all_runs = "All runs" if all(first.same_images(other) for other in others) else "The two runs of a pair"
    return (
        f"A pair is two runs with the same seed and the same other labels.{of_settings(comparisons)} The t-test takes the "
        "differences for normal; the "
        f"exact test by sign flips does not, and with {pairs} pairs its p cannot go under {floor}. "
        f"Two-sided, and not corrected for there being {len(comparisons)} tests. {all_runs} are judged on the same test "
        "images: the tests say whether other seeds would show the difference again, not whether other images would."
    )


COLUMNS = {  # key of a row: its title, and the factor and digits it is shown with
    "margin": ("margin", 1, 2), "share": ("share of the possible drop, %", 100, 1), "distance": ("distance", 1, 4),
    "crossed": ("crossed, %", 100, 1), "fooled": ("fools S, %", 100, 1), "transfer": ("transfer, %", 100, 0),
    "entropy": ("H, nats", 1, 2),
}  # fmt: skip
NEEDED = ("examples", "threat", "split", "inner", "norm", "run", "images", "own_attacks")


def diagnoses_table(found: Sequence[Figures], key: str, title: str, note: str = "") -> Table:
    """Make the table of where examples lie, a row a method: mean ± sd over runs that were diagnosed alike."""
    rows = [[words(name), *_of_method(found, name)] for name in found[0]["examples"]]
    return Table(key, title, ["examples by", *(column for column, *_ in COLUMNS.values())], rows, note=note)


def _of_method(found: Sequence[Figures], name: str) -> list[TableCell]:
    given = [d["examples"][name] for d in found if isinstance(d["examples"][name], dict)]
    rows = [row | {"distance": row.get(f"distance_{found[0].get('norm')}")} for row in given]
    cells = []
    for key, (_, factor, digits) in COLUMNS.items():
        values = [factor * row[key] for row in rows if is_number(row.get(key))]
        cells.append(mean_and_sd(mean_sd(values) if values else None, f".{digits}f"))
    return cells


def diagnoses_markdown(found: Sequence[Figures]) -> str:
    """Write mean ± sample sd over runs of what `mmard diagnose` wrote for each into diagnosis.json.

    Raises:
        MmardError: when there are none, or they are not of the same methods, threat, split and images.
    """
    if not found:
        raise MmardError("no diagnosis.json to make a table of; expected PAGE/NAME/RUN/diagnosis.json")
    for d in found:
        if lacks := [key for key in NEEDED if key not in d]:
            raise MmardError(
                f"a diagnosis.json lacks {lacks[0]!r}; make it anew: mmard diagnose RUN --out PAGE/NAME/RUN"
            )
    for key in ("examples", "threat", "split", "inner", "images", "own_attacks"):
        seen = {str(list(d[key]) if key == "examples" else d[key]) for d in found}
        if len(seen) > 1:
            raise MmardError(f"diagnoses of different {key} make no table: {' and '.join(sorted(seen))}")
    first = found[0]
    attack = first["inner"][next(iter(first["inner"]))].rsplit(" by ", 1)[-1]
    runs = ", ".join(d["run"] for d in found)
    how = (
        f"Mean ± sample standard deviation over {len(found)} students ({runs}). {first['images']} {first['split']} images, "
        f"{first['threat']}, {'each by its own attack' if first['own_attacks'] else attack}. "
        "What the columns mean: docs/diagnose.md."
    )
    return f"{diagnoses_table(found, 'diagnosis', 'Where examples lie').grid()}\n\n{how}\n"
