"""Checkpoints and weights know what they hold: a flipped bit is one line, never another result."""

import errno
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import small_net
from safetensors.torch import load_file, save_file

from mmard import MmardError, Scores
from mmard.models.tensor_files import DIGEST, load_tensors, save_tensors
from mmard.models.weights import load_weights, metadata_of, read_state, save_weights
from mmard.runs.folder import RunFolder
from mmard.study.jobs import is_done
from mmard.study.spec import Evaluation
from mmard.utils.files import sha256, write_whole
from mmard.utils.safe_open import alone_in

STATE = {"step": 7, "student": {"w": torch.arange(600.0).view(20, 30), "b": torch.ones(3)}, "best": {"robust": 41.5}}
FACTS = {"settings": {"threat": {"eps": 0.1}}, "classes": ["cat", "dog", "cow", "hen"]}


def flipped(path: Path, whole: bytes, bit: int) -> None:
    spoilt = bytearray(whole)
    spoilt[bit // 8] ^= 1 << bit % 8
    path.write_bytes(spoilt)


def survivors(path: Path, read: Callable[[], Any], bits: list[int]) -> list[int]:
    """The flips of one bit that are read without a word; each of the others must be one line that names the file."""
    whole, unsaid = path.read_bytes(), []
    for bit in bits:
        flipped(path, whole, bit)
        said = None
        try:
            read()
        except MmardError as e:
            said = str(e)
        unsaid += [bit] if said is None else []
        assert said is None or (path.name in said and "\n" not in said)
    path.write_bytes(whole)
    read()
    return unsaid


def some_bits(path: Path, count: int) -> list[int]:
    return random.Random(0).sample(range(8 * path.stat().st_size), count)


def test_no_flipped_bit_of_a_checkpoint_is_read(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.save(STATE)
    file = folder.checkpoint_file
    assert survivors(file, folder.load, some_bits(file, 60)) == []
    seal = 8 * (file.stat().st_size - 100)
    assert survivors(file, folder.load, list(range(seal, seal + 800, 7))) == []  # the seal itself
    survivors(file, folder.made_with, some_bits(file, 200))  # a quick look, before the digest: nothing else than a line


def test_no_flipped_bit_of_weights_is_read(tmp_path: Path) -> None:
    """A flip in the digest's own name leaves a file without one, and everything else as it was: that may be read."""
    path, net = tmp_path / "best.safetensors", small_net()
    save_weights(path, net, FACTS)
    unsaid = survivors(path, lambda: (metadata_of(path), load_weights(path)), some_bits(path, 60))
    header = 8 * (8 + int.from_bytes(path.read_bytes()[:8], "little"))
    unsaid += survivors(path, lambda: (metadata_of(path), load_weights(path)), list(range(0, header, 37)))
    whole = path.read_bytes()
    for bit in unsaid:
        flipped(path, whole, bit)
        assert metadata_of(path) == FACTS
        assert all(torch.equal(t, net.state_dict()[name]) for name, t in load_weights(path).state_dict().items())
    assert len(unsaid) <= 2


def test_every_part_of_a_header_is_covered(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    save_weights(path, small_net(), FACTS)
    tensors, header = load_tensors(path)
    digest = path.read_bytes().split(DIGEST.encode() + b'":"')[1][:64].decode()
    more = {**tensors, "net.extra": torch.zeros(1)}
    for those, metadata in ((tensors, {**header, "facts": "{}"}), (more, header), (tensors, {**header, "new": "1"})):
        save_file(those, path, metadata={**metadata, DIGEST: digest})
        for read in (metadata_of, load_weights, read_state):
            with pytest.raises(MmardError, match=r"best.safetensors is damaged: .* copy it again .* or remove it"):
                read(path)


def test_files_without_a_digest_are_read(tmp_path: Path) -> None:
    """Those of other people, and our own from before."""
    path, net = tmp_path / "old.safetensors", small_net()
    save_weights(path, net, FACTS)
    header = load_tensors(path)[1]
    save_file(load_file(path), path, metadata=header)
    assert metadata_of(path) == FACTS
    assert torch.equal(next(load_weights(path).parameters()), next(net.parameters()))
    folder = RunFolder(tmp_path)
    torch.save(STATE, folder.checkpoint_file)
    assert (folder.load() or {})["step"] == 7
    torch.save(STATE, folder.checkpoint_file, _use_new_zipfile_serialization=False)
    assert (folder.load() or {})["step"] == 7


def test_others_read_a_sealed_checkpoint(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.save(STATE)
    for mapped in (False, True):
        state = torch.load(folder.checkpoint_file, weights_only=True, mmap=mapped)
        assert torch.equal(state["student"]["w"], STATE["student"]["w"])  # type: ignore[index]


@pytest.mark.parametrize(
    ("code", "cure"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EACCES, "write elsewhere"),
        (errno.EIO, "write elsewhere"),
        (errno.ENOENT, "was it moved or removed"),
        (errno.EFBIG, "ulimit -f"),
    ],
)
@pytest.mark.parametrize("native", [False, True])
def test_space_is_named_only_where_space_is_missing(code: int, cure: str, native: bool, tmp_path: Path) -> None:
    def fails(part: Path) -> None:
        raise RuntimeError(f"I/O error: whatever (os error {code})") if native else OSError(code, "whatever")

    with pytest.raises(MmardError, match=cure) as said:
        write_whole(tmp_path / "file", fails)
    assert ("free some space" in str(said.value)) == (code in (errno.ENOSPC, errno.EDQUOT))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_gone_is_not_made_again(tmp_path: Path) -> None:
    with pytest.raises(MmardError, match=r"cannot write .*/gone/file: .* was it moved or removed\?"):
        write_whole(tmp_path / "gone/file", lambda part: torch.save({}, part), make_folder=False)
    assert list(tmp_path.iterdir()) == []


def test_what_many_write_at_once_is_one_of_them(tmp_path: Path) -> None:
    """The second begins and ends while the first is writing."""
    path = tmp_path / "file"

    def first(part: Path) -> None:
        part.write_text("fir")
        write_whole(path, lambda other: other.write_text("second"))
        part.write_text("first")

    write_whole(path, first)
    assert path.read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_whoever_the_umask_lets_may_read_every_file(umask: int, tmp_path: Path) -> None:
    """safetensors puts a file of its own in place, which the owner alone may read."""
    before = os.umask(umask)
    try:
        save_tensors(tmp_path / "new" / "best.safetensors", {"w": torch.ones(3)})
        write_whole(tmp_path / "new" / "a.txt", lambda part: part.write_text("a"))
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "new").iterdir()}
    assert modes == {0o666 & ~umask}
    assert load_tensors(tmp_path / "new" / "best.safetensors")[0]["w"].tolist() == [1, 1, 1]


def test_one_evaluation_at_a_time_writes_in_a_folder(tmp_path: Path) -> None:
    with alone_in(tmp_path / "eval", "wait"):
        with (
            pytest.raises(MmardError, match=r"another process is writing in .*eval; wait"),
            alone_in(tmp_path / "eval", "wait"),
        ):
            raise AssertionError
        with alone_in(tmp_path / "other", "wait"):
            pass
    with alone_in(tmp_path / "eval", "wait"):
        assert list((tmp_path / "eval").iterdir()) == []


def test_a_studys_done_hangs_on_digests_not_on_times(tmp_path: Path) -> None:
    folder, evaluation = RunFolder(tmp_path), Evaluation(attacks="none")
    for file in (folder.best_file, folder.last_file):
        save_weights(file, small_net())
    right = torch.ones(4, 1, dtype=torch.bool)
    metadata = {"asked": evaluation.asked(), "weights": sha256(folder.best_file)}
    scores = Scores(right, ("clean",), ("",), (0.0,), torch.arange(4), metadata)
    scores.save(tmp_path / "eval/best")
    verdicts = tmp_path / "eval/best/verdicts.safetensors"
    os.utime(verdicts, (0, 0))  # as a copy from elsewhere may have it
    assert is_done(folder, evaluation)
    replace(scores, correct=~right).save(tmp_path / "other")
    whole = verdicts.read_bytes()
    verdicts.write_bytes((tmp_path / "other/verdicts.safetensors").read_bytes())
    assert not is_done(folder, evaluation)
    verdicts.write_bytes(whole)
    assert is_done(folder, evaluation)
    save_weights(folder.best_file, small_net(seed=1))
    os.utime(folder.best_file, (0, 0))
    assert not is_done(folder, evaluation)
