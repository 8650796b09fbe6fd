"""The layout version of a run folder: the old one is read, a newer one is refused."""

from pathlib import Path

import pytest
from handmade import make_run

from mmard import MmardError, load_model
from mmard.api.settings import read_settings
from mmard.runs.folder import RunFolder
from mmard.runs.groups import read_groups
from mmard.runs.record import read_run
from mmard.utils.layout import LAYOUT, LAYOUT_FILE

NEWER = rf"layout version {LAYOUT + 1}, and this mmard reads versions up to {LAYOUT}"


def test_what_is_written_has_a_version_and_what_has_none_is_read(tmp_path: Path) -> None:
    old = make_run(tmp_path / "old")
    assert not (old / LAYOUT_FILE).exists()
    assert read_run(old, "old").epochs[0] == 3
    RunFolder(old).begin(RunFolder(old).settings())
    assert (old / LAYOUT_FILE).read_text() == f"{LAYOUT}\n"
    assert read_run(old, "old").epochs[0] == 3


def test_a_newer_folder_is_refused_with_its_version_by_whoever_reads_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "s/run")
    (run / LAYOUT_FILE).write_text(f"{LAYOUT + 1}\n")
    for read in (RunFolder, read_settings, load_model, lambda path: read_run(path, "run")):
        with pytest.raises(MmardError, match=NEWER):
            read(run)
    make_run(tmp_path / "s/other")
    with pytest.warns(UserWarning, match=NEWER):
        (group,) = read_groups([tmp_path / "s"], lambda _: (None, ""))
    assert [run.name for run in group.runs] == ["other"]


def test_a_version_that_is_no_number_is_one_line(tmp_path: Path) -> None:
    (tmp_path / LAYOUT_FILE).write_text("two\n")
    with pytest.raises(MmardError, match=r"layout\.txt holds no layout version, expected a whole number"):
        RunFolder(tmp_path)
