"""Run records in one file: ``runs.tar.gz`` in a folder is read as the run folders that it holds."""

import gzip
import io
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from mmard.utils.errors import MmardError, first_line
from mmard.utils.files import write_whole
from mmard.utils.layout import LAYOUT_FILE
from mmard.utils.portable_paths import standing_for, unpacked_from
from mmard.utils.safe_open import must_be_plain
from mmard.utils.text_files import LONGEST
from mmard.utils.trust import inside

ARCHIVE = "runs.tar.gz"
STUDY_FILE = "study.yaml"
RESULTS_FILE = "results.json"
OF_A_STUDY = (STUDY_FILE, RESULTS_FILE)
OF_A_RUN = (
    LAYOUT_FILE, "settings.yaml", "metrics.jsonl", "method.txt", "history.json", "teachers.json", "eval/*/scores.json",
    "eval/*/verdicts.safetensors", "diagnosis.json",
)  # fmt: skip
"""What tables are made of: a few kB a run, no weights."""
LARGEST = 1 << 28
"""Bytes of all the records in an archive; those of a run are about 10 kB."""
MOST = 100_000
DAMAGED = (OSError, EOFError, zlib.error, tarfile.TarError, ValueError, LookupError, OverflowError)
"""What reading bytes that are no whole archive raises."""

Records = dict[str, bytes]
"""path within the folder → content."""


def records_in(folder: Path) -> Records:
    """Read a folder's records from its archive and from plain run folders; a plain file stands for the archive's.

    Raises:
        MmardError: for an archive that is damaged, or that holds what no archive of records does.
    """
    file = folder / ARCHIVE
    return (read_archive(file) if file.exists() else {}) | plain_records(folder)


def plain_records(folder: Path) -> Records:
    """Read the records that lie in a folder as files."""
    runs = {file.parent for name in ("settings.yaml", "diagnosis.json") for file in folder.rglob(name)}
    files = [
        *(folder / name for name in OF_A_STUDY),
        *(file for run in runs for kind in OF_A_RUN for file in run.glob(kind)),
    ]
    files = [file for file in files if file.is_file() and not file.is_symlink()]  # what lies elsewhere is not packed
    return {file.relative_to(folder).as_posix(): _content(file) for file in files}


@contextmanager
def unpacked(folder: Path) -> Iterator[Path]:
    """Yield a folder with the run folders of ``folder``: itself or, where it has an archive, a temporary one of its name.

    Errors and reports made meanwhile name ``folder``, not the temporary one.

    Raises:
        MmardError: for an archive that is damaged, or that holds what no archive of records does.
    """
    if not (folder / ARCHIVE).exists():
        yield folder
        return
    with laid_out(records_in(folder), folder) as made:
        yield made


@contextmanager
def laid_out(records: Records, folder: Path) -> Iterator[Path]:
    """Yield a temporary folder with these records of ``folder`` and its name; errors made meanwhile name ``folder``."""
    with tempfile.TemporaryDirectory(prefix="mmard-") as place:
        made = Path(place) / (folder.resolve().name or "records")
        try:
            _write(records, made)
        except OSError as e:  # a full disk; a name that is too long, or that is a file's and a folder's
            raise MmardError(f"cannot unpack {folder / ARCHIVE}: {first_line(e)}") from e
        with standing_for(made, folder):
            try:
                yield made
            except MmardError as e:
                raise MmardError(unpacked_from(str(e))) from e


def read_archive(file: Path) -> Records:
    """Read all that an archive holds; nothing is written, and no link is followed.

    Raises:
        MmardError: when it is damaged or too large, or has a link, a path that leads out of it, or a name twice.
    """
    must_be_plain(file)
    try:
        with gzip.open(file) as stream:
            content = stream.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise MmardError(f"{file} holds more than {LARGEST:,} bytes; is it an archive of run records?")
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            return _records_of(tar, file)
    except (*DAMAGED, RecursionError) as e:  # which a chain of headers makes
        raise MmardError(
            f"{file} is no whole archive of run records ({first_line(e)}); put a copy in its place, or remove it and "
            "make it anew: mmard study STUDY --into PAGE"
        ) from e


def _records_of(tar: tarfile.TarFile, file: Path) -> Records:
    records: Records = {}
    for member in tar:
        name, what = member.name, ""
        if not member.isreg() or member.issparse():
            what = "is no plain file"
        elif not name.isprintable() or inside(file.parent, name).relative_to(file.parent).as_posix() != name:
            what = "is no name of a record"
        elif name in records:
            what = "stands in it twice"
        elif member.size > LONGEST["JSON"] or len(records) == MOST:
            what = f"is too much; expected {MOST:,} files of {LONGEST['JSON']:,} bytes at most"
        if what:
            raise MmardError(f"{file}: {name!r} {what}; put a copy that mmard wrote in its place")
        part = tar.extractfile(member)
        assert part is not None  # a plain file has a content
        records[name] = part.read()
        if len(records[name]) != member.size:
            raise tarfile.ReadError(f"{name} is cut short")
    return records


def write_archive(file: Path, records: Mapping[str, bytes]) -> None:
    """Write an archive in one step; the same records make the same bytes, whenever and by whomever they are written.

    Raises:
        MmardError: when the disk is full or not writable; the old file is untouched.
    """
    packed = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=packed, mtime=0) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name in sorted(records):
            member = tarfile.TarInfo(name)  # of time 0, and of nobody
            member.size = len(records[name])
            tar.addfile(member, io.BytesIO(records[name]))
    write_whole(file, lambda part: part.write_bytes(packed.getvalue()))


def pack(folder: Path, records: Mapping[str, bytes]) -> None:
    """Write a folder's archive, and remove the plain files that are in it now; a run folder that holds more stays whole."""
    write_archive(folder / ARCHIVE, records)
    known = {folder / name for name in records}
    for run in {file.parent for file in known if file.name in ("settings.yaml", "diagnosis.json")}:
        there = sorted(run.rglob("*"), reverse=True)  # what a folder holds comes before it
        if {path for path in there if path.is_symlink() or not path.is_dir()} <= known:
            for path in there:
                path.rmdir() if path.is_dir() else path.unlink()
            for path in (run, *run.parents[: len(run.relative_to(folder).parts) - 1]):
                with suppress(OSError):  # other runs are still there
                    path.rmdir()
    for name in OF_A_STUDY:
        if name in records:
            (folder / name).unlink(missing_ok=True)


def _write(records: Records, to: Path) -> None:
    for name, content in records.items():
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        (to / name).write_bytes(content)


def _content(file: Path) -> bytes:
    must_be_plain(file)
    try:
        with file.open("rb") as f:
            content = f.read(LONGEST["JSON"] + 1)
    except OSError as e:
        raise MmardError(f"cannot read {file}: {first_line(e)}") from e
    if len(content) > LONGEST["JSON"]:
        raise MmardError(f"{file} has more than {LONGEST['JSON']:,} bytes; is it the right file?")
    return content
