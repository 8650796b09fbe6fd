"""Images that stay on disk: bit-equal to images in memory, decoded a little ahead, and the wait for them is measured."""

import gc
import io
import json
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from test_training import Stops, assert_same_runs

import mmard
from mmard import MmardError
from mmard.data import streaming
from mmard.data.encoded import EncodedImages
from mmard.data.sources import load
from mmard.data.streaming import Streamed
from mmard.runs.folder import RunFolder
from mmard.training.callbacks import Bar
from mmard.training.engine import Engine
from mmard.training.loader import BatchLoader

pytestmark = pytest.mark.figures

datasets = pytest.importorskip("datasets")

COUNT, BATCH = 84, 16  # 64 of the images are learnt from, 20 held out: 4 steps an epoch


def encoded(number: int, width: int = 12) -> bytes:
    """A noisy JPEG whose colour tells its class; every eighth is grey."""
    from PIL import Image

    draw = np.random.default_rng(number)
    pixels = draw.integers(0, 90, (12, width, 3), dtype=np.uint8)
    pixels[..., number % 3] += 120
    file = io.BytesIO()
    Image.fromarray(pixels).convert("L" if number % 8 == 0 else "RGB").save(file, "jpeg", quality=90)
    return file.getvalue()


def write(path: Path, files: Sequence[bytes]) -> str:
    classes = datasets.ClassLabel(names=["red", "green", "blue"])
    features = datasets.Features(img=datasets.Image(), label=classes)
    images = [{"bytes": file, "path": None} for file in files]
    rows = {"img": images, "label": [i % 3 for i in range(len(files))]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Where the pictures are, for `load`."""
    folder = tmp_path_factory.mktemp("pictures")
    train = write(folder / "train.parquet", [encoded(i) for i in range(COUNT)])
    test = write(folder / "test.parquet", [encoded(i) for i in range(COUNT, COUNT + 12)])
    return {"name": "parquet", "train": train, "test": test, "held_out": 0.24}


def train(files: dict[str, Any], out: Path, stop: int = 10**9, **settings: Any) -> RunFolder:
    """Two epochs of 4 steps with all that reads the training images: crops, normalisation, averaged weights."""
    usual = {
        "method": "pgd_at", "student": "cnn-4-2", "train__epochs": 2, "train__batch_size": BATCH, "data__augment": "crop+flip",
        "normalize": "data", "averaging__kind": "ema", "averaging__decay": 0.5, "attack__steps": 1, "validation__steps": 1,
        "checkpoint_every": 1,
    }  # fmt: skip
    where = {f"data__{key}": value for key, value in files.items()}
    return mmard.train(watch=lambda _: Stops(stop), out=str(out), **{**usual, **where, **settings})


class Fake:
    """Pictures without files: numbered, slow if asked, and it is known who of them lives."""

    shape = (4, 4, 3)

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.numbers, self.alive, self.most = seconds, list[int](), 0, 0
        self.begun, self.lock = threading.Semaphore(0), threading.Lock()

    def decode(self, numbers: Sequence[int]) -> np.ndarray:
        self.begun.release()
        time.sleep(self.seconds * len(numbers))
        pixels = np.empty((len(numbers), *self.shape), np.uint8)
        pixels[:] = np.reshape(numbers, (-1, 1, 1, 1))
        with self.lock:
            self.numbers += numbers
            self.alive += 1
            self.most = max(self.most, self.alive)
        weakref.finalize(pixels, self._gone)
        return pixels

    def _gone(self) -> None:
        with self.lock:
            self.alive -= 1


def fakes(count: int, seconds: float = 0.0) -> tuple[Fake, Streamed]:
    fake, numbers = Fake(seconds), torch.arange(count)
    return fake, Streamed(fake, numbers % 2, ("even", "odd"), numbers)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [None, 8])
def test_a_streamed_run_is_bit_equal_to_one_in_memory(size: int | None, files: dict[str, Any], tmp_path: Path) -> None:
    for stream in (False, True):
        train(files, tmp_path / str(stream), data__stream=stream, data__size=size)
    assert_same_runs(tmp_path / "False", tmp_path / "True")
    assert len(RunFolder(tmp_path / "True").metrics()) == 2


def test_a_streamed_run_resumes_bit_equal_and_may_change_to_memory(files: dict[str, Any], tmp_path: Path) -> None:
    train(files, tmp_path / "whole")
    for cut, stream in ((3, True), (4, False), (6, True)):
        with pytest.raises(KeyboardInterrupt):
            train(files, tmp_path / "cut", cut, data__stream=stream, resume=True)
    train(files, tmp_path / "cut", data__stream=True, resume=True)
    assert_same_runs(tmp_path / "whole", tmp_path / "cut")


def test_pixels_statistics_and_splits_are_those_in_memory(files: dict[str, Any]) -> None:
    there, here = (load(**files, limit=60, seed=3, stream=stream).train for stream in (True, False))
    assert isinstance(there, Streamed)
    assert there.channels == here.channels == 3
    rows = [torch.tensor([5, 0, 40]), torch.tensor([7])]
    for ours, theirs in zip(there.batches(rows), here.batches(rows), strict=True):
        assert all(torch.equal(a, b) and a.stride() == b.stride() for a, b in zip(ours, theirs, strict=True))
    assert there.mean_std() == here.mean_std()
    assert torch.equal(there.in_memory().pixels, here.in_memory().pixels)


def test_only_what_is_held_out_and_the_test_images_are_decoded(
    files: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, seen = EncodedImages.decode, []
    monkeypatch.setattr(EncodedImages, "decode", lambda p, numbers: (seen.extend(numbers), decode(p, numbers))[1])
    data = load(**files, stream=True)
    assert sorted(seen) == sorted([*data.held_out.index.tolist(), *data.test.index.tolist()])
    assert len(data.held_out) == 20


def test_digits_are_in_memory_anyway() -> None:
    plain, asked = load("digits"), load("digits", stream=True)
    assert torch.equal(plain.train.pixels, asked.train.pixels)  # type: ignore[attr-defined]


def test_a_broken_image_stops_when_its_turn_comes_and_keeps_the_checkpoint(
    files: dict[str, Any], tmp_path: Path
) -> None:
    data = load(**files, stream=True)
    steps = list(BatchLoader(images=data.train, batch_size=BATCH, seed=0, engine=Engine()).batches(0, 4))
    broken = int(steps[2][2][0])
    pictures = [b"no picture" if i == broken else encoded(i) for i in range(COUNT)]
    bad = files | {"train": write(tmp_path / "bad.parquet", pictures)}
    with pytest.raises(MmardError, match=rf"image {broken} .*of train cannot be decoded: .*; put a whole file"):
        train(bad, tmp_path / "run", normalize="none", data__stream=True)
    state = RunFolder(tmp_path / "run").load()
    assert state is not None
    assert state["step"] == 2


@pytest.mark.parametrize("stream", [False, True])
def test_several_sizes_are_one_line(stream: bool, files: dict[str, Any], tmp_path: Path) -> None:
    pictures = [encoded(i, width=20 if i % 9 == 8 else 12) for i in range(COUNT)]
    mixed = files | {"train": write(tmp_path / "mixed.parquet", pictures)}
    with pytest.raises(MmardError, match=r"several sizes \(.*12×12, 20×12.*\); give data.size="):
        train(mixed, tmp_path / "run", data__stream=stream)


def test_train_and_test_of_different_sizes_are_one_line(files: dict[str, Any], tmp_path: Path) -> None:
    wide = write(tmp_path / "wide.parquet", [encoded(i, width=20) for i in range(12)])
    with pytest.raises(MmardError, match=r"training images are 12×12 and test images 20×12; give data\.size="):
        load(**files | {"test": wide}, stream=True)


def test_a_few_batches_are_decoded_ahead_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "AHEAD", 3)
    fake, images = fakes(200)
    batches = images.batches(torch.split(torch.arange(200), 4))
    x, y, index = next(batches)
    assert all(fake.begun.acquire(timeout=10) for _ in range(4))  # the one in hand, and three that nobody asked for yet
    assert not fake.begun.acquire(timeout=0.1)
    assert index.tolist() == [0, 1, 2, 3]
    assert torch.equal((255 * x[:, 0, 0, 0]).round().long(), index)
    assert torch.equal(y, index % 2)
    assert [int(i[0]) for _, _, i in batches] == [*range(4, 200, 4)]
    assert 3 <= fake.most <= 5
    gc.collect()
    assert fake.alive <= 1


def test_a_feed_that_is_closed_decodes_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "THREADS", 1)
    fake, images = fakes(400, seconds=0.005)
    loader = BatchLoader(images=images, batch_size=4, seed=0, engine=Engine())
    batches = loader.batches(0, 100)
    next(batches)
    batches.close()
    done = len(fake.numbers)
    time.sleep(0.2)
    assert len(fake.numbers) <= done + 4


def test_each_process_decodes_only_its_own_rows() -> None:
    seen = []
    for rank in range(2):
        fake, images = fakes(40)
        engine: Any = SimpleNamespace(world=2, rank=rank)
        index = [
            i.tolist() for _, _, i in BatchLoader(images=images, batch_size=8, seed=1, engine=engine).batches(2, 8)
        ]
        assert sorted(i for part in index for i in part) == sorted(fake.numbers)
        seen.append(index)
    _, images = fakes(40)
    whole = BatchLoader(images=images, batch_size=8, seed=1, engine=Engine()).batches(2, 8)
    assert [i.tolist() for _, _, i in whole] == [a + b for a, b in zip(*seen, strict=True)]


def test_the_wait_for_a_slow_decoder_is_measured_epoch_by_epoch(
    files: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, slow = EncodedImages.decode, iter([0.3] * 4)

    def first_epoch_slow(pictures: EncodedImages, numbers: Sequence[int]) -> np.ndarray:
        time.sleep(next(slow, 0.0) if len(numbers) == BATCH else 0.0)
        return decode(pictures, numbers)

    monkeypatch.setattr(streaming, "THREADS", 1)
    monkeypatch.setattr(EncodedImages, "decode", first_epoch_slow)
    waits = {}
    plain = {"normalize": "none", "averaging__kind": "none", "averaging__decay": 0.999}
    for stream in (False, True):
        run = train(files, tmp_path / str(stream), data__stream=stream, **plain)
        waits[stream] = [r["data_wait"] for r in run.metrics()]
    assert all(0 <= wait < 0.5 for wait in waits[False])
    assert 0.5 < waits[True][0] <= 1
    assert 0 <= waits[True][1] < 0.5


def test_what_is_decoded_while_the_device_computes_is_no_wait() -> None:
    _, images = fakes(200, seconds=0.002)
    loader = BatchLoader(images=images, batch_size=10, seed=0, engine=Engine())
    begun = time.perf_counter()
    for _ in loader.batches(0, 20):
        time.sleep(0.06)  # decoding takes 0.02
    assert loader.waited_share(time.perf_counter() - begun) < 0.15


@pytest.mark.parametrize(("wait", "seconds", "told"), [(0.4, 100.0, True), (0.04, 100.0, False), (0.4, 0.5, False)])
def test_a_person_is_told_of_a_notable_wait(wait: float, seconds: float, told: bool) -> None:
    said = io.StringIO()
    bar = Bar("run", Console(file=said, width=200))
    bar.epoch_ended({"data_wait": wait, "seconds": seconds})
    bar.end()
    assert ("waited 40% of the time for images; what helps: more CPU cores" in said.getvalue()) == told
    assert ("waited" in said.getvalue()) == told


def test_the_wait_is_in_the_metrics_file(files: dict[str, Any], tmp_path: Path) -> None:
    run = train(files, tmp_path, data__stream=True)
    lines = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    assert lines
    assert all(0 <= line["data_wait"] <= 1 for line in lines)
