"""Several diagnoses as one Markdown table: the same methods' examples on students of several seeds."""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from mmard.core.errors import MmardError

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
        cells = [_spread([row[key] for row in rows], factor, digits) for key, (_, factor, digits) in COLUMNS.items()]
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


def _spread(values: Sequence[float | None], factor: float, digits: int) -> str:
    known = [factor * value for value in values if value is not None]
    if not known:
        return "–"
    return f"{mean(known):.{digits}f}" + (f" ± {stdev(known):.{digits}f}" if len(known) > 1 else "")
