"""CSV tables: a text that a spreadsheet would run as a formula is marked as text; numbers stay numbers."""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

RUN = re.compile(r"\s*[=+\-@]|[\t\r]")
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


def csv_text(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Write a table as CSV.

    >>> csv_text(["name", "gain"], [["=1+1", -0.5]])
    "name,gain\\n'=1+1,-0.5\\n"
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([_cell(value) for value in row] for row in (head, *rows))
    return text.getvalue()


def csv_of_records(records: Sequence[Mapping[str, Any]]) -> str:
    """Write records with the same keys as CSV, a column for each key."""
    head = list(records[0])
    return csv_text(head, ([record.get(key, "") for key in head] for record in records))


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    mark = "'" if RUN.match(value) and not NUMBER.fullmatch(value) else ""
    return mark + value.replace("\r", " ")  # which the writer does not quote: it would end the row
