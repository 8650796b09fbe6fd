"""The table of exported files: speed, size, memory and accuracy, for the screen and for a card."""

from mmard.report.table import DASH, Table, TableCell, number, words
from mmard.runs.exports import Accuracy, ExportRecord, Timing
from mmard.utils.terminal import ScreenTable

BATCHES = {"1": "1 image", "32": "32 images"}


def export_table(record: ExportRecord) -> Table:
    """Make the table: a column a model, the network that the files were made from first, its teacher last."""
    threads = {"1": "1 thread"} | ({str(record.threads): f"{record.threads} threads"} if record.threads > 1 else {})
    rows = [
        [words("size, MB"), *(number(row.megabytes, ".2f") for row in record.rows)],
        [words("peak memory, MiB"), *(number(row.peak_mib, ".0f") for row in record.rows)],
    ]
    for batch, images in BATCHES.items():
        for count, said in threads.items():
            times = [_time(row.latency.get(count, {}).get(batch)) for row in record.rows]
            rows.append([words(f"{images}, {said}, ms"), *times])
    rows.append([words("clean, %"), *(_accuracy(row.clean) for row in record.rows)])
    attack = record.attack.partition(":")[0] or "robust"
    rows.append([words(f"{attack}, %"), *(_accuracy(row.robust) for row in record.rows)])
    return Table("exports", "Exported", ["", *(row.name for row in record.rows)], rows, note=_note(record))


def _time(found: Timing | None) -> TableCell:
    """Make a cell of a time, ``0.21 / 0.25``: median and 95th percentile."""
    if found is None:
        return TableCell(DASH)
    return TableCell(" / ".join(f"{ms:.2f}" if ms < 10 else f"{ms:.0f}" for ms in (found.median, found.p95)))


def _accuracy(found: Accuracy | None) -> TableCell:
    return TableCell(DASH) if found is None else TableCell(f"{found.value:.1f} ({found.low:.0f}–{found.high:.0f})")


def _note(record: ExportRecord) -> str:
    ran = ", ".join(dict.fromkeys(row.runtime for row in record.rows if row.runtime))
    said = (
        f"Times are median / 95th percentile of a batch, on {record.cpu} ({ran}). Memory is the most of a process that "
    )
    said += "runs the file at these batches, Python and runtime included. "
    of = f" ({record.data})" if record.data else ""
    said += f"Accuracies are of {record.images} test images{of}, in brackets Wilson's 95 % interval"
    if record.attack:
        said += f"; {record.attack}; {record.threat}"
        said += "; a file meets the network's own examples and those made straight through it, and each image's worse counts"
    return f"{said}. mmard eval judges on all images, and by AutoAttack."


def export_screen(record: ExportRecord) -> ScreenTable:
    """Make the same table for the screen."""
    table = export_table(record)
    shown = ScreenTable(title="Measured", title_justify="left", caption=table.note, caption_justify="left")
    for i, name in enumerate(table.columns):
        shown.add_column(name, justify="right" if i else "left", overflow="fold", no_wrap=i == 0)
    for row in table.rows:
        shown.add_row(*[cell.text for cell in row])
    return shown
