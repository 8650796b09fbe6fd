"""A study's results as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmard.evaluation.scores import CLEAN, WORST
from mmard.utils.errors import MmardError
from mmard.utils.numbers import mean_sd

HELD_OUT = ("held-out clean", "held-out robust")
SECONDS = "seconds an epoch"
Figures = Mapping[str, Any]


def study_markdown(results: Figures, figure: str) -> str:
    """Mean and spread over seeds, comparisons, the figure; ``figure`` is the link to it."""
    parts = [results["about"], _means(results), _how(results)]
    testable = [c for c in results["comparisons"] if c["n"] > 1]
    if testable:
        told = f"{len(testable)} paired differences, with intervals and tests"
        parts.append(
            f"<details><summary>{told}</summary>\n\n{_comparisons(testable)}\n\n{_caution(testable)}\n\n</details>"
        )
    elif results["comparisons"]:
        parts.append("One pair of runs says nothing of a difference: it takes seeds.")
    if results["missing"]:
        parts.append(f"**Not there yet:** {', '.join(results['missing'])}.")
    parts.append(f"![accuracy and cost of each run]({figure})")
    return "\n\n".join(part for part in parts if part) + "\n"


def _means(results: Figures) -> str:
    keys = [
        key for key in (*results["attacks"], *HELD_OUT, SECONDS) if any(key in g["figures"] for g in results["groups"])
    ]
    titles = [f"{key}, best epoch" if key in HELD_OUT else key for key in keys]
    lines = []
    for group in results["groups"]:
        cells = [_spread(group, key) for key in keys]
        lines.append([*map(_safe, group["labels"].values()), str(len(group["seeds"])), *cells])
    return _table([*map(_safe, results["axes"]), "seeds", *titles], lines, left=len(results["axes"]))


def _spread(group: Figures, key: str) -> str:
    """``52.1 ± 1.3``; with one seed the interval over the test images in its place."""
    if key not in group["figures"]:
        return "–"
    mean, sd = (group["figures"][key][part] for part in ("mean", "sd"))
    if sd is not None:
        return f"{mean:.1f} ± {sd:.1f}"
    interval = (group["interval"] or {}).get(key)
    return f"{mean:.1f} ({interval[0]:.1f}–{interval[1]:.1f})" if interval else f"{mean:.1f}"


def _how(results: Figures) -> str:
    rows, text = results["rows"], "Accuracy in percent: mean ± sample standard deviation (n − 1) over seeds"
    if any(len(g["seeds"]) == 1 for g in results["groups"]):
        text += "; with one seed, in brackets, Wilson's 95 % interval over the test images"
    sizes = sorted({row["samples"] for row in rows})
    text += f". {' or '.join(f'{n:,}' for n in sizes)} test images."
    for attack in results["attacks"]:
        if attack not in (CLEAN, WORST) and len({row["details"][attack] for row in rows}) == 1:
            text += f" {attack}: {rows[0]['details'][attack]}."
    mean = " (mean, where an inner process changes on the way)" if results.get("changing") else ""
    return text + f" Seconds an epoch: median{mean}, on the machine and with as many runs at once as there were."


def _comparisons(comparisons: Sequence[Figures]) -> str:
    titles = ["difference in points", "pairs", "mean", "sd", "95 % interval (t)", "p (t)", "p (sign flips)"]
    lines = []
    for c in comparisons:
        sd = "–" if c["sd"] is None else f"{c['sd']:.2f}"
        interval = "–" if c["low"] is None else f"{signed(c['low'])} to {signed(c['high'])}"
        name = _safe(f"{c['label']} − {c['baseline']}, {c['attack']}")
        lines.append([name, str(c["n"]), signed(c["mean"]), sd, interval, _p(c["p_t"]), _p(c["p_exact"])])
    return _table(titles, lines, left=1)


def signed(points: float) -> str:
    """``+1.20`` or ``−1.20``."""
    return f"{points:+.2f}".replace("-", "−")


def _p(value: float | None) -> str:
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _caution(comparisons: Sequence[Figures]) -> str:
    pairs = min(c["n"] for c in comparisons)
    floor = f"{2 / 2**pairs:.3g}"
    return (
        "A pair is two runs with the same seed and the same other labels. The t-test takes the differences for normal; the "
        f"exact test by sign flips does not, and with {pairs} pairs its p cannot go under {floor}. "
        f"Two-sided, and not corrected for there being {len(comparisons)} tests. All runs are judged on the same test "
        "images: the tests say whether other seeds would show the difference again, not whether other images would."
    )


def _safe(text: str) -> str:
    return text.replace("|", r"\|")


def _table(titles: Sequence[str], lines: Sequence[Sequence[str]], left: int) -> str:
    rule = "|" + "---|" * left + "---:|" * (len(titles) - left)
    return "\n".join([f"| {' | '.join(titles)} |", rule, *(f"| {' | '.join(line)} |" for line in lines)])


COLUMNS = {  # key of a row: its title, and the factor and digits it is shown with
    "margin": ("margin", 1, 2), "share": ("share of the possible drop, %", 100, 1), "distance": ("distance", 1, 4),
    "crossed": ("crossed, %", 100, 1), "fooled": ("fools S, %", 100, 1), "transfer": ("transfer, %", 100, 0),
    "entropy": ("H, nats", 1, 2),
}  # fmt: skip
NEEDED = ("examples", "threat", "split", "inner", "norm", "run", "images", "own_attacks")


def diagnoses_markdown(found: Sequence[Mapping[str, Any]]) -> str:
    """Mean ± sample sd over runs of what `mmard diagnose` wrote for each into diagnosis.json.

    Raises:
        MmardError: when there are none, or they are not of the same methods, threat and split.
    """
    if not found:
        raise MmardError("no diagnosis.json to make a table of; expected PAGE/NAME/RUN/diagnosis.json")
    for d in found:
        if lacks := [key for key in NEEDED if key not in d]:
            raise MmardError(
                f"a diagnosis.json lacks {lacks[0]!r}; make it anew: mmard diagnose RUN --out PAGE/NAME/RUN"
            )
    for key in ("examples", "threat", "split", "inner"):
        seen = {str(list(d[key]) if key == "examples" else d[key]) for d in found}
        if len(seen) > 1:
            raise MmardError(f"diagnoses of different {key} make no table: {' and '.join(sorted(seen))}")
    first = found[0]
    lines = [["examples by", *(title for title, _, _ in COLUMNS.values())]]
    for name in first["examples"]:
        rows = [d["examples"][name] | {"distance": d["examples"][name][f"distance_{d['norm']}"]} for d in found]
        cells = [
            _mean_and_sd([row[key] for row in rows], factor, digits) for key, (_, factor, digits) in COLUMNS.items()
        ]
        lines.append([name.replace("|", r"\|"), *cells])
    lines.insert(1, ["---", *["---:"] * len(COLUMNS)])
    attack = first["inner"][next(iter(first["inner"]))].rsplit(" by ", 1)[-1]
    runs = ", ".join(d["run"] for d in found)
    how = (
        f"Mean ± sample standard deviation over {len(found)} students ({runs}). {first['images']} {first['split']} images, "
        f"{first['threat']}, {'each by its own attack' if first['own_attacks'] else attack}. "
        "What the columns mean: [diagnose](diagnose.md)."
    )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{how}\n"


def _mean_and_sd(values: Sequence[float | None], factor: float, digits: int) -> str:
    known = [factor * value for value in values if value is not None]
    if not known:
        return "–"
    mean, sd = mean_sd(known)
    return f"{mean:.{digits}f}" + ("" if sd is None else f" ± {sd:.{digits}f}")
