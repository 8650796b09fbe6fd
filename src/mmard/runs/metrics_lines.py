"""Lines of metrics.jsonl: a record of a step each, with a sum by which a damaged one is known."""

import json
import zlib
from typing import Any

from mmard.utils.errors import MmardError
from mmard.utils.numbers import is_number
from mmard.utils.text_files import NoJsonError, parse_json

NO_NUMBERS: dict[str, type] = {
    "precision": str,
    "device": str,
    "chosen_by": str,
    "collapsed": bool,
}  # all else in the metrics is one
SUM = "crc32"


def line_of(record: dict[str, Any]) -> str:
    """Write a record as its line. Lines of old versions, and of other people, have no sum."""
    return json.dumps({**record, SUM: _sum(record)}) + "\n"


def _sum(record: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(record).encode())


def record_in(line: str, where: str) -> dict[str, Any] | None:
    """Parse a line of the metrics; None where it is none, as one that a kill cut short.

    Raises:
        MmardError: for a record whose values are no numbers, or not those that were written.
    """
    try:
        record = parse_json(line, where)
    except NoJsonError:
        return None
    if not isinstance(record, dict) or not {"step", "epoch"} <= record.keys():
        return None
    told = record.pop(SUM, None)
    if told is not None and told != _sum(record):
        raise MmardError(
            f"{where} is not what was written: it does not match its {SUM}; put a copy in its place, or leave out the {SUM}"
        )
    for name, value in record.items():
        parts = value if isinstance(value, dict) else {name: value}
        for part, number in parts.items():
            if isinstance(number, NO_NUMBERS.get(part, ())):
                continue
            kind = int if part in ("step", "epoch") else int | float
            if not is_number(number) or not isinstance(number, kind):
                what = "a whole number" if kind is int else "a number"
                raise MmardError(f"{where}: {part!r} is {number!r}, expected {what}; mend that line, or remove it")
    return record
