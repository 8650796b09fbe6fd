"""Results of a study as files: tables and figure in its folder, and a block of a page made from packed records."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from mmard.evaluation.scores import read_table, table_text
from mmard.report.figures.study import plot_study
from mmard.report.study_tables import diagnoses_markdown, study_markdown
from mmard.runs.archive import ARCHIVE, RESULTS_FILE, STUDY_FILE, Records, laid_out, pack, records_in, unpacked
from mmard.runs.evaluation import VERDICTS
from mmard.study.grid import cells_of
from mmard.study.jobs import result_of
from mmard.study.results import flat_rows, results_of
from mmard.study.spec import StudyFile, read_study
from mmard.utils.csv_files import csv_of_records
from mmard.utils.errors import MmardError, first_line
from mmard.utils.files import json_text, read_json, write_json, write_text
from mmard.utils.layout import LAYOUT_FILE
from mmard.utils.portable_paths import portable
from mmard.utils.text_files import parse_json, read_text, read_yaml

BLOCK = re.compile(r"(<!-- study: (?P<name>(?!\.+ )[^\n/]+?) -->\n)(?P<old>.*?)(<!-- end of study -->)", re.DOTALL)
DIAGNOSIS = re.compile(
    r"(<!-- diagnosis: (?P<name>(?!\.+ )[^\n/]+?) -->\n)(?P<old>.*?)(<!-- end of diagnosis -->)", re.DOTALL
)
LINK = re.compile(r"\]\((?P<target>[^)\s#]+\.md)(?:#[^)\s]*)?\)")


def write_results(study: StudyFile) -> dict[str, Any]:
    """Write study.yaml, results.json, results.csv, table.md and figure.png into the study's folder, from run folders."""
    results, folder = results_of(study), study.folder
    study.save(folder / STUDY_FILE)
    _write_files(folder, results)
    return results


def _write_files(folder: Path, results: dict[str, Any]) -> None:
    write_json(folder / RESULTS_FILE, results)
    write_text(folder / "results.csv", csv_of_records(flat_rows(results)))
    write_text(folder / "table.md", study_markdown(results, "figure.png"))
    plot_study(results, folder / "figure.png")


def must_have_place(study: StudyFile, page: Path) -> None:
    """Raise MmardError unless the page, or one below it that it links to, has a block for the study."""
    _page_of(Path(study.out).name, page)


def pages_of(page: Path) -> list[Path]:
    """List a page and those that it links to in the folder of its name: ``results.md`` and ``results/*.md``."""
    linked = [page.parent / match["target"] for match in LINK.finditer(_read(page))]
    below = page.with_suffix("").resolve()  # after the reading, which refuses a folder such as "."
    linked = [path for path in linked if path.is_file() and path.resolve().is_relative_to(below)]
    return list({path.resolve(): path for path in [page, *linked]}.values())


def _page_of(name: str, page: Path) -> Path:
    """Find which of a page's pages has the block of a study."""
    for each in pages_of(page):
        if name in [match["name"] for match in BLOCK.finditer(_read(each))]:
            return each
    raise MmardError(
        f"{page} has no place for {name}; put two lines where its tables shall stand: "
        f"<!-- study: {name} --> and <!-- end of study -->"
    )


def _folder_of(name: str, page: Path) -> Path:
    """Find the records of a block: in the folder of the page's name; beside it, where that is the block's name too."""
    within = page.with_suffix("") / name
    return page.with_suffix("") if page.stem == name and not within.is_dir() else within


def keep(study: StudyFile, page: Path) -> None:
    """Pack the records of results (settings, metrics, scores, verdicts; a few kB a run) beside the page, and fill its block.

    Runs that were packed before and are not there now stay in the archive.
    """
    name = Path(study.out).name
    page = _page_of(name, page)
    to = _folder_of(name, page)
    if to.resolve() != study.folder.resolve():
        records = records_in(to) | _records_of(study)
        with laid_out(records, to) as runs:  # a fault in them is told before anything is written over
            results = _results_of(runs)
        pack(to, records | {RESULTS_FILE: json_text(results).encode()})
        for made_from_it in ("table.md", "results.csv"):  # as folders of earlier versions have them
            (to / made_from_it).unlink(missing_ok=True)
    refresh(page, [name])


def _shared_json(file: Path) -> str:
    """Read a JSON file, and write it anew without this machine's paths."""
    return json_text(portable(parse_json(read_text(file), str(file))))


def _records_of(study: StudyFile) -> Records:
    """Read the records of a study that has run; they are shared, so no path of this machine is in them."""
    records = {STUDY_FILE: study.text().encode()}
    for cell in cells_of(study):
        scores = result_of(cell.folder, study.evaluate)
        if scores is None:
            continue
        made = cell.folder
        told = read_table(scores)
        told |= {key: portable(told[key]) for key in ("settings", "model", "twin", "asked") if key in told}
        files = {
            "settings.yaml": yaml.safe_dump(
                portable(read_yaml(made.settings_file)), sort_keys=False, allow_unicode=True
            ),
            "metrics.jsonl": read_text(made.metrics_file),
            "method.txt": made.formula() + "\n" if made.formula() else "",
            **{file.name: _shared_json(file) for file in (made.history_file, made.teachers_file) if file.is_file()},
            LAYOUT_FILE: read_text(layout) if (layout := made.path / LAYOUT_FILE).is_file() else "",
            f"eval/{scores.name}/scores.json": table_text(told),
        }
        records |= {f"{cell.name}/{name}": text.encode() for name, text in files.items() if text}
        verdicts = scores / VERDICTS
        if verdicts.is_file():  # with them differences can be tested over the images, too
            records[f"{cell.name}/eval/{scores.name}/{VERDICTS}"] = verdicts.read_bytes()
    return records


def refresh(page: Path, names: Iterable[str] | None = None) -> list[str]:
    """Make the blocks of a page and of its `pages_of` anew (None: all of them) from the records; returns their names.

    A study's block is made of its runs, a diagnosis's of the ``*/diagnosis.json``; either may lie in an archive.

    Raises:
        MmardError: when the page or a block's runs are not there.
    """
    wanted = None if names is None else set(names)
    done = [name for each in pages_of(page) for name in _refresh_one(each, wanted)]
    if not done:
        raise MmardError(f"{page} has no block of a study; expected <!-- study: NAME --> ... <!-- end of study -->")
    return done


def _refresh_one(page: Path, names: set[str] | None) -> list[str]:
    text, done = _read(page), []

    def made_by(table: Callable[[Path, str], str]) -> Callable[[re.Match[str]], str]:
        def made(match: re.Match[str]) -> str:
            name = match["name"]
            if names is not None and name not in names:
                return match[0]
            done.append(name)
            return f"{match[1]}{table(page, name)}{match[4]}"

        return made

    new = DIAGNOSIS.sub(made_by(_diagnoses_table), BLOCK.sub(made_by(_study_table), text))
    if new != text:
        write_text(page, new)
    return done


def _study_table(page: Path, name: str) -> str:
    """Make a study's table from its records, and its figure; where its runs are plain folders, all its files."""
    folder = _folder_of(name, page)
    results = _results_in(folder)
    if (folder / ARCHIVE).exists():
        plot_study(results, folder / "figure.png")
    else:
        _write_files(folder, results)
    return study_markdown(results, (folder / "figure.png").relative_to(page.parent).as_posix())


def _results_in(folder: Path) -> dict[str, Any]:
    with unpacked(folder) as runs:
        return _results_of(runs)


def _results_of(runs: Path) -> dict[str, Any]:
    return results_of(read_study(runs / STUDY_FILE).model_copy(update={"out": str(runs)}))


def _diagnoses_table(page: Path, name: str) -> str:
    with unpacked(_folder_of(name, page)) as runs:
        return diagnoses_markdown([read_json(file) for file in sorted(runs.glob("*/diagnosis.json"))])


def _read(page: Path) -> str:
    try:
        return page.read_text(encoding="utf-8")
    except (OSError, ValueError) as e:
        raise MmardError(f"cannot read {page}: {first_line(e)}; expected a Markdown page") from e
