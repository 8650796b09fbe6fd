"""Records in plain text that are not what was written are refused, bit by bit, and folders of a newer layout; older are read."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from handmade import make_run

from mmard import MmardError, Scores, load_model
from mmard.api.settings import read_settings
from mmard.evaluation.scores import read_table
from mmard.runs.folder import RunFolder
from mmard.runs.groups import read_groups
from mmard.runs.record import read_run
from mmard.utils.layout import LAYOUT, LAYOUT_FILE

RECORD = {
    "step": 5,
    "epoch": 1,
    "loss": 0.1 + 0.2,
    "terms": {"soft_adv": 1e-7},
    "robust": 6.666667,
    "precision": "32-true",
}


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def save_scores(folder: Path) -> Path:
    verdicts = torch.tensor([[True, False], [True, True], [False, False]])
    found = Scores(
        verdicts, ("clean", "FGSM"), ("no attack", "1 step"), (0.0, 0.1), torch.arange(3), {"model": "a", "seed": 0}
    )
    found.save(folder)
    return folder / "scores.json"


def save_metrics(folder: Path) -> Path:
    for step in (5, 10, 15):
        RunFolder(folder).append(RECORD | {"step": step, "epoch": step // 5})
    return folder / "metrics.jsonl"


@pytest.mark.parametrize(
    ("save", "read"),
    [(save_scores, read_table), (save_metrics, lambda folder: RunFolder(folder).metrics())],
)
@pytest.mark.filterwarnings("ignore:.*its last line is cut short")
def test_a_flipped_bit_never_changes_a_figure(
    save: Callable[[Path], Path], read: Callable[[Path], object], tmp_path: Path
) -> None:
    file = save(tmp_path)
    content, whole, draw = file.read_bytes(), read(tmp_path), random.Random(0)
    said: list[str] = []
    for bit in draw.sample(range(8 * len(content)), 300):
        file.write_bytes(flipped(content, bit))
        try:
            found = read(tmp_path)
        except MmardError as e:
            said.append(str(e))
            continue
        if isinstance(whole, dict) and isinstance(found, dict):  # a flip in the key of the digest leaves a key more
            found = {key: value for key, value in found.items() if key in whole}
        if isinstance(whole, list) and isinstance(found, list):  # a last line cut short is left out, and said
            found = [{key: value for key, value in line.items() if key in RECORD} for line in found]
            assert found in (whole, whole[:-1])
        else:
            assert found == whole
    assert len(said) > 100
    assert all(len(line.splitlines()) == 1 for line in said)


def test_records_of_others_have_no_sum(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(json.dumps(RECORD) + "\n")
    assert RunFolder(tmp_path).metrics() == [RECORD]
    file = save_scores(tmp_path)
    table = json.loads(file.read_text())
    del table["digest"]
    file.write_text(json.dumps(table))
    assert Scores.load(tmp_path).accuracy("FGSM") == pytest.approx(1 / 3)


def test_verdicts_that_are_cut_are_one_line(tmp_path: Path) -> None:
    save_scores(tmp_path)
    file = tmp_path / "verdicts.safetensors"
    for length in (0, 5, file.stat().st_size - 1):
        file.write_bytes(file.read_bytes()[:length])
        with pytest.raises(MmardError, match=r"cannot read .*verdicts\.safetensors"):
            Scores.load(tmp_path)


def test_epochs_that_the_metrics_lost_are_said(tmp_path: Path) -> None:
    save_metrics(tmp_path).write_text("")
    with pytest.warns(UserWarning, match="has no lines of 2 epochs that are done"):
        RunFolder(tmp_path).forget_after(15, RECORD | {"step": 15, "epoch": 3})


def test_a_refused_run_leaves_no_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "new")
    folder.lock()
    folder.close()
    assert not folder.path.exists()
    (tmp_path / "old").mkdir()
    folder = RunFolder(tmp_path / "old")
    folder.lock()
    folder.close()
    assert folder.path.is_dir()


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
