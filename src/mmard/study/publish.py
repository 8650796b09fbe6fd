"""Files of a study's results: tables and figure in its folder, and a block of a page that is made from kept runs."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from mmard.report.figures.study import plot_study
from mmard.report.study_tables import diagnoses_markdown, study_markdown
from mmard.study.grid import cells_of
from mmard.study.jobs import scores_of
from mmard.study.results import flat_rows, results_of
from mmard.study.spec import StudyFile, read_study
from mmard.utils.csv_files import csv_of_records
from mmard.utils.errors import MmardError, first_line
from mmard.utils.files import read_json, write_json, write_text
from mmard.utils.portable_paths import portable
from mmard.utils.text_files import read_text, read_yaml

BLOCK = re.compile(r"(<!-- study: (?P<name>(?!\.+ )[^\n/]+?) -->\n)(?P<old>.*?)(<!-- end of study -->)", re.DOTALL)
DIAGNOSIS = re.compile(
    r"(<!-- diagnosis: (?P<name>(?!\.+ )[^\n/]+?) -->\n)(?P<old>.*?)(<!-- end of diagnosis -->)", re.DOTALL
)


def write_results(study: StudyFile) -> dict[str, Any]:
    """Write study.yaml, results.json, results.csv, table.md and figure.png into the study's folder, from run folders."""
    results, folder = results_of(study), study.folder
    study.save(folder / "study.yaml")
    write_json(folder / "results.json", results)
    write_text(folder / "results.csv", csv_of_records(flat_rows(results)))
    write_text(folder / "table.md", study_markdown(results, "figure.png"))
    plot_study(results, folder / "figure.png")
    return results


def must_have_place(study: StudyFile, page: Path) -> None:
    """Raise unless the page has a block for the study."""
    name = Path(study.out).name
    if name not in [match["name"] for match in BLOCK.finditer(_read(page))]:
        raise MmardError(
            f"{page} has no place for {name}; put two lines where its tables shall stand: "
            f"<!-- study: {name} --> and <!-- end of study -->"
        )


def keep(study: StudyFile, page: Path) -> None:
    """Copy what results are made of (settings, metrics, scores; a few kB a run) beside the page, and fill its block."""
    must_have_place(study, page)
    name = Path(study.out).name
    to = page.with_suffix("") / name
    for cell in cells_of(study):
        scores = scores_of(cell.folder, study.evaluate)
        if scores is None:
            continue
        run, made = to / cell.name, cell.folder
        settings = portable(read_yaml(made.settings_file))  # what is kept here is handed on
        write_text(run / "settings.yaml", yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
        write_text(run / "metrics.jsonl", read_text(made.metrics_file))
        if made.formula():
            write_text(run / "method.txt", made.formula() + "\n")
        told = read_json(scores / "scores.json")
        told |= {key: portable(told[key]) for key in ("settings", "model", "twin", "asked") if key in told}
        write_json(run / "eval" / scores.name / "scores.json", told)
    study.save(to / "study.yaml")
    refresh(page, [name])


def refresh(page: Path, names: Iterable[str] | None = None) -> list[str]:
    """Make the blocks of a page anew (None: all of them) from what is kept beside it; returns their names.

    A study's block is made of its runs, a diagnosis's of ``PAGE/NAME/*/diagnosis.json``.

    Raises:
        MmardError: when the page or a block's runs are not there.
    """
    text, done = _read(page), []

    def made(match: re.Match[str]) -> str:
        name = match["name"]
        if names is not None and name not in names:
            return match[0]
        folder = page.with_suffix("") / name
        study = read_study(folder / "study.yaml")
        results = write_results(study.model_copy(update={"out": str(folder)}))
        study.save(folder / "study.yaml")  # where it ran, not where its files are kept
        table = study_markdown(results, f"{page.stem}/{name}/figure.png")
        done.append(name)
        return f"{match[1]}{table}{match[4]}"

    def diagnosed(match: re.Match[str]) -> str:
        name = match["name"]
        if names is not None and name not in names:
            return match[0]
        files = sorted((page.with_suffix("") / name).glob("*/diagnosis.json"))
        done.append(name)
        return f"{match[1]}{diagnoses_markdown([read_json(file) for file in files])}{match[4]}"

    new = DIAGNOSIS.sub(diagnosed, BLOCK.sub(made, text))
    if not done:
        raise MmardError(f"{page} has no block of a study; expected <!-- study: NAME --> ... <!-- end of study -->")
    if new != text:
        write_text(page, new)
    return done


def _read(page: Path) -> str:
    try:
        return page.read_text(encoding="utf-8")
    except (OSError, ValueError) as e:
        raise MmardError(f"cannot read {page}: {first_line(e)}; expected a Markdown page") from e
