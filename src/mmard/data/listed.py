"""Pictures listed in a CSV file: a path and a label a line."""

import csv
from pathlib import Path
from typing import Any

import torch

from mmard.data.columns import LABEL_COLUMNS, text_labels
from mmard.data.parts import Table
from mmard.utils.errors import MmardError, first_line, unknown
from mmard.utils.numbers import shortened
from mmard.utils.safe_open import must_be_itself

PATHS = ("path", "file", "filename", "file_name", "filepath", "image", "img", "image_path")
LABELS = (*LABEL_COLUMNS, "class", "target", "y")


def listed(files: list[str], image: str | None, label: str | None, split: str) -> Table:
    """Read CSV files with the columns path and label; pictures' paths are from the folder of their file, or from the root.

    Args:
        image, label: the names of the columns, where they have others.
        split: its name in messages.

    Raises:
        MmardError: for a file, a column or a picture that is not there, and a line without a label.
    """
    import datasets

    pictures, labels, known = list[str](), list[str](), dict[str, str]()
    for name in files:
        file = Path(name)
        for number, path, word in _lines(file, image, label):
            if not path or not word:
                got = f"{shortened(path) if path else 'no path'} and {shortened(word) if word else 'no label'}"
                raise MmardError(f"{file}, line {number}: got {got}, expected both")
            pictures.append(str(file.absolute().parent / Path(path).expanduser()))
            if known.setdefault(pictures[-1], word) != word:
                two = f"{shortened(known[pictures[-1]])} and {shortened(word)}"
                raise MmardError(
                    f"{file}, line {number}: {shortened(path)} has two labels, {two}; expected one a picture"
                )
            labels.append(word)
    if missing := [path for path in pictures if not Path(path).is_file()]:
        raise MmardError(
            f"{len(missing):,} of {len(pictures):,} pictures of {files[0]} are not there, such as {missing[0]}; expected paths "
            "from the folder of the CSV file, or whole ones"
        )
    y, names = text_labels(labels, f"labels of {files[0]}")
    rows = datasets.Dataset.from_dict({"image": pictures}, datasets.Features(image=datasets.Image()), split=split)
    return Table(rows, "image", y, names, not names, torch.arange(len(y)))


def _lines(file: Path, image: str | None, label: str | None) -> list[tuple[int, str, str]]:
    """Read the number, the path and the label of each line below the header."""
    must_be_itself(file)
    try:
        with file.open(newline="", encoding="utf-8-sig") as f:
            reader = csv.reader(f)
            header = [name.strip() for name in next(reader, [])]
            path, word = (
                _column(file, header, *which) for which in ((image, PATHS, "image"), (label, LABELS, "label"))
            )
            return [(reader.line_num, _cell(line, path), _cell(line, word)) for line in reader if any(line)]
    except (csv.Error, UnicodeDecodeError, OSError) as e:
        raise MmardError(f"{file} is no CSV file ({first_line(e)}); expected text with the header path,label") from e


def _cell(line: list[str], column: int) -> str:
    return line[column].strip() if column < len(line) else ""


def _column(file: Path, header: list[str], asked: str | None, usual: tuple[str, ...], key: str) -> int:
    if asked is not None:
        if asked not in header:
            raise unknown(f"column of {file}", asked, header, f"name another: data.{key}=COLUMN")
        return header.index(asked)
    lower: list[Any] = [name.lower() for name in header]
    found = next((lower.index(name) for name in usual if name in lower), None)
    if found is None:
        raise MmardError(
            f"{file} has the columns {', '.join(header)[:80] or 'none'}; expected the header path,label, or data.{key}=COLUMN"
        )
    return found
