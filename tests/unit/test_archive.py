"""An archive of run records says what its folders said, and nothing that somebody put into it leads out of it."""

import gzip
import io
import os
import random
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import Run

from mmard import MmardError
from mmard.runs import archive
from mmard.runs.archive import pack, read_archive, records_in, unpacked, write_archive
from mmard.utils.text_files import LONGEST

RESULTS = Path(__file__).resolve().parents[2] / "docs/results"
RECORDS = {
    "study.yaml": b"out: runs/x\n",
    "results.json": b"{}\n",
    "a/seed-0/settings.yaml": b"seed: 0\n",
    "a/seed-0/metrics.jsonl": b"{}\n",
    "a/seed-0/eval/best/scores.json": b"{}\n",
    "b.ä/seed-0/settings.yaml": b"seed: 1\n",
}


def lay(folder: Path, files: dict[str, bytes] = RECORDS) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def files_in(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_what_is_packed_is_read_as_the_folders_were(tmp_path: Path) -> None:
    lay(tmp_path / "x")
    with unpacked(tmp_path / "x") as place:
        assert place == tmp_path / "x"
    pack(tmp_path / "x", records_in(tmp_path / "x"))
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["runs.tar.gz"]
    with unpacked(tmp_path / "x") as place:
        assert place.name == "x"
        assert files_in(place) == RECORDS
    assert not place.exists()


def test_the_same_records_make_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_archive(tmp_path / "a.tar.gz", RECORDS)
    monkeypatch.setattr(time, "time", lambda: 2e9)
    write_archive(tmp_path / "b.tar.gz", dict(reversed(RECORDS.items())))
    first = (tmp_path / "a.tar.gz").read_bytes()
    assert (tmp_path / "b.tar.gz").read_bytes() == first
    assert b"a.tar" not in first[:40]
    with tarfile.open(tmp_path / "a.tar.gz") as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname) for m in tar} == {(0, 0, 0, "")}


def test_a_run_beside_the_archive_counts_and_one_that_holds_more_is_not_removed(tmp_path: Path) -> None:
    lay(tmp_path)
    pack(tmp_path, records_in(tmp_path))
    lay(tmp_path, {"a/seed-0/settings.yaml": b"seed: 7\n", "c/settings.yaml": b"{}", "c/best.safetensors": b"weights"})
    records = records_in(tmp_path)
    assert records == RECORDS | {"a/seed-0/settings.yaml": b"seed: 7\n", "c/settings.yaml": b"{}"}
    pack(tmp_path, records)
    assert files_in(tmp_path).keys() == {"runs.tar.gz", "c/settings.yaml", "c/best.safetensors"}
    assert records_in(tmp_path) == records


def test_what_a_link_leads_to_is_not_packed(tmp_path: Path) -> None:
    lay(tmp_path / "x", {"a/settings.yaml": b"{}"})
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "x/a/metrics.jsonl").symlink_to(tmp_path / "secret")
    assert list(records_in(tmp_path / "x")) == ["a/settings.yaml"]


def test_our_own_records_are_all_read() -> None:
    kept = {file.parent.name: records_in(file.parent) for file in RESULTS.glob("*/runs.tar.gz")}
    runs = {name: sum(file.endswith("/settings.yaml") for file in records) for name, records in kept.items()}
    assert runs.keys() > {"cifar10-pays", "digits-boundary"}
    assert {name for name, n in runs.items() if n < 9} <= {
        "cifar10-pays",
        "digits-boundary",
    }  # a study that goes on, and diagnoses
    for name, records in kept.items():
        files = {file.rpartition("/")[2] for file in records}
        of_a_run, of_a_study = {"settings.yaml", "metrics.jsonl", "scores.json"}, {"study.yaml", "results.json"}
        assert files >= (of_a_run if runs[name] else {"diagnosis.json"}), name
        assert files >= (of_a_study if runs[name] >= 9 else set()), name


def foreign(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def named(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info, b"" if link else b"{}"


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([named("../out/settings.yaml")], "leads out of"),
        ([named("a/../../out")], "leads out of"),
        ([named("/etc/settings.yaml")], "leads out of"),
        ([named("~/settings.yaml")], "leads out of"),
        ([named("a//b")], "no name of a record"),
        ([named("./a")], "no name of a record"),
        ([named("a\nb")], "no name of a record"),
        ([named("a", tarfile.SYMTYPE, "/etc/passwd")], "no plain file"),
        ([named("a", tarfile.LNKTYPE, "b")], "no plain file"),
        ([named("a", tarfile.FIFOTYPE)], "no plain file"),
        ([named("a", tarfile.CHRTYPE)], "no plain file"),
        ([named("a"), named("a")], "twice"),
        ([named("a"), named("a/b")], "cannot unpack"),
        ([named("/".join(["x" * 300]))], "cannot unpack"),
        ([named("a"), named("b"), named("c"), named("d")], "too much"),
        ([(tarfile.TarInfo("a"), bytes(3000))], "too much"),
    ],
)  # fmt: skip
def test_what_no_archive_of_records_holds_is_refused_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, members: list[tuple[tarfile.TarInfo, bytes]], expected: str
) -> None:
    monkeypatch.setattr(archive, "MOST", 3)
    monkeypatch.setitem(LONGEST, "JSON", 2000)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    (tmp_path / "x").mkdir()
    foreign(tmp_path / "x/runs.tar.gz", *members)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(MmardError, match=expected) as raised, unpacked(tmp_path / "x"):
        raise AssertionError("it was read")
    assert "\n" not in str(raised.value)
    assert "temporary" not in str(raised.value)
    assert sorted(tmp_path.rglob("*")) == before


def whole(folder: Path) -> bytes:
    write_archive(folder / "w.tar.gz", RECORDS)
    return (folder / "w.tar.gz").read_bytes()


@pytest.mark.parametrize(
    "damage",
    [
        lambda good: b"",
        lambda good: b"no archive",
        lambda good: good[: len(good) // 2],
        lambda good: good[:-8],
        lambda good: good[:60] + bytes([good[60] ^ 255]) + good[61:],
        lambda good: gzip.compress(b"no tar" * 1000),
        lambda good: gzip.compress(gzip.decompress(good)[:1000]),
    ],
)
def test_a_damaged_archive_is_one_line(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    (tmp_path / "runs.tar.gz").write_bytes(damage(whole(tmp_path)))
    with pytest.raises(MmardError, match=r"runs\.tar\.gz is no whole archive of run records") as raised:
        read_archive(tmp_path / "runs.tar.gz")
    assert "\n" not in str(raised.value)


def test_headers_without_end_are_one_line(tmp_path: Path) -> None:
    name = tarfile.TarInfo("././@LongLink")
    name.type, name.size = tarfile.GNUTYPE_LONGNAME, 1
    (tmp_path / "runs.tar.gz").write_bytes(gzip.compress((name.tobuf() + b"a".ljust(512, b"\0")) * 5000))
    with pytest.raises(MmardError, match="no whole archive"):
        read_archive(tmp_path / "runs.tar.gz")


def test_whatever_a_bit_does_is_one_line_or_nothing(tmp_path: Path) -> None:
    good, draw, file = bytearray(gzip.decompress(whole(tmp_path))), random.Random(0), tmp_path / "runs.tar.gz"
    said = []
    for _ in range(300):
        bad = good.copy()
        for _ in range(draw.randint(1, 4)):
            bad[draw.randrange(len(good))] = draw.randrange(256)
        file.write_bytes(gzip.compress(bytes(bad), compresslevel=1))
        try:
            read_archive(file)
        except MmardError as e:
            said.append(str(e))
    assert len(said) > 20
    assert not any("\n" in line for line in said)


def test_a_few_bytes_that_stand_for_very_many_are_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "LARGEST", 1 << 20)
    (tmp_path / "runs.tar.gz").write_bytes(gzip.compress(bytes(1 << 21)))
    with pytest.raises(MmardError, match="more than 1,048,576 bytes"):
        read_archive(tmp_path / "runs.tar.gz")


def test_a_pipe_in_its_place_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "runs.tar.gz")
    with pytest.raises(MmardError, match="no plain file but a pipe"):
        records_in(tmp_path)


def test_errors_and_reports_name_the_folder_not_the_temporary_one(mmard: Run, tmp_path: Path) -> None:
    bad = RECORDS | {"a/seed-0/metrics.jsonl": b'{"step": 1, "epoch": "x"}\n'}
    (tmp_path / "page/x").mkdir(parents=True)
    write_archive(tmp_path / "page/x/runs.tar.gz", bad)
    (tmp_path / "page.md").write_text("<!-- study: x -->\n<!-- end of study -->\n")
    done = mmard("report", "page/x")
    assert done.returncode == 0
    assert "left out: page/x/a/seed-0/metrics.jsonl: line 1" in done.stdout
    assert tempfile.gettempdir() + "/mmard-" not in (tmp_path / "page/x/report.html").read_text()
    (tmp_path / "page/x/runs.tar.gz").write_bytes(b"damaged")
    done = mmard("results", "page.md")
    assert done.returncode == 2
    assert "page/x/runs.tar.gz is no whole archive" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
