"""Variants of each image, drawn once: teachers see them once, training goes on as if they had been asked in each step."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from helpers import blobs, small_net
from test_resume import Sends, assert_refused, ended_by
from test_training import Stops, assert_same_runs, trainer
from torch import Tensor

from mmard import MmardError
from mmard.core.views import Predict
from mmard.data.images import DataSet, Images
from mmard.methods import METHODS
from mmard.runs.folder import RunFolder
from mmard.training import variants
from mmard.training.callbacks import Watcher
from mmard.training.engine import Engine
from mmard.training.variants import Variants, draw_variants

ALONE = cast(Engine, SimpleNamespace(world=1, rank=0, device=torch.device("cpu"), gather=lambda t: t))
TEACHER = small_net(seed=9).eval()


class Counting:
    """A teacher that counts the images it sees."""

    def __init__(self) -> None:
        self.images = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.images += len(x)
        with torch.no_grad():
            return TEACHER(x)  # type: ignore[no-any-return]


def drawn(
    images: Images, count: int = 2, kind: str = "crop+flip", engine: Engine = ALONE, **teachers: Predict
) -> Variants:
    return draw_variants(images, kind, count, 0, teachers, engine, 16, lambda _done, _total: None)


def test_the_teacher_sees_each_variant_once_and_its_logits_are_those_at_the_images() -> None:
    images, teacher = blobs(120).take(torch.arange(0, 120, 3)), Counting()  # indices with gaps, as a split leaves them
    variants = drawn(images, 3, teacher=teacher)
    assert teacher.images == 3 * 40
    for epoch in range(6):
        x, _, index = images.batch(torch.tensor([7, 0, 39]))
        seen, frame, known = variants(x, index, epoch)
        assert torch.equal(seen, frame(x))
        torch.testing.assert_close(known["teacher"], TEACHER(seen).detach())
    assert teacher.images == 3 * 40


def test_an_image_has_so_many_variants_and_no_more() -> None:
    images, two = blobs(120), drawn(blobs(120))
    x, _, index = images.batch(torch.arange(120))
    seen = [two(x, index, epoch)[0] for epoch in range(6)]
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1], seen[5])
    assert not torch.equal(seen[0], seen[1])
    again = drawn(images)(x, index, 0)[0]
    assert torch.equal(seen[0], again)


def test_without_augmentation_there_is_one_variant_the_image_itself() -> None:
    images = blobs(120)
    x, _, index = images.batch(torch.arange(5))
    assert torch.equal(drawn(images, 1, "none")(x, index, 3)[0], x)


def test_processes_share_the_images_and_have_all_the_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """121 images for two processes, the second of which sees one of them again."""
    images, meeting, shelf = blobs(121), threading.Barrier(2), {}
    frames = variants._frames(images, "crop+flip", 2, 0)  # threads, unlike processes, share torch's random numbers
    monkeypatch.setattr(variants, "_frames", lambda *_: frames)

    def gather(rank: int) -> Callable[[Tensor], Tensor]:
        def all_of(value: Tensor) -> Tensor:
            shelf[rank] = value
            meeting.wait(10)
            both = torch.cat([shelf[0], shelf[1]])
            meeting.wait(10)
            return both

        return all_of

    found: dict[int, Variants] = {}
    teachers: list[Predict] = [Counting(), Counting()]

    def work(rank: int) -> None:
        engine = cast(Engine, SimpleNamespace(world=2, rank=rank, device=torch.device("cpu"), gather=gather(rank)))
        found[rank] = drawn(images, engine=engine, teacher=teachers[rank])

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    alone = drawn(images, teacher=TEACHER)
    assert [cast(Counting, teacher).images for teacher in teachers] == [122, 122]
    for rank in range(2):
        torch.testing.assert_close(found[rank].logits["teacher"], alone.logits["teacher"])
    assert torch.equal(found[0].logits["teacher"], found[1].logits["teacher"])


@pytest.mark.figures
@pytest.mark.parametrize("cut", [1, 6])
def test_a_resumed_run_with_variants_is_bit_equal(cut: int, tiny: DataSet, tmp_path: Path) -> None:
    trainer(tiny, tmp_path / "whole", variants=2).fit()
    with pytest.raises(KeyboardInterrupt):
        trainer(tiny, tmp_path / "cut", variants=2, watcher=Stops(cut), checkpoint_every=1).fit()
    trainer(tiny, tmp_path / "cut", variants=2).fit()
    assert_same_runs(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.figures
@pytest.mark.parametrize("name", ["rslad", "adaad", "igdm", "mtard", "saad", "mmard"])
def test_known_logits_change_nothing_but_the_time(
    name: str, tiny: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same variants, with the teacher asked in each step: the losses are equal up to rounding."""
    trainer(tiny, tmp_path / "known", METHODS[name](), variants=2).fit()
    ask = Variants.__call__
    monkeypatch.setattr(Variants, "__call__", lambda *a: (*ask(*a)[:2], {}))
    trainer(tiny, tmp_path / "asked", METHODS[name](), variants=2).fit()
    known, asked = ([line["loss"] for line in RunFolder(tmp_path / at).metrics()] for at in ("known", "asked"))
    assert known == pytest.approx(asked, rel=1e-3)


def test_training_learns_from_the_known_logits(tiny: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits that are all 0 give another loss: the teacher is not asked at x."""
    trainer(tiny, tmp_path / "known", METHODS["rslad"](), variants=2).fit()
    ask = Variants.__call__

    def zeros(*a: Any) -> Any:
        x, frame, known = ask(*a)
        return x, frame, {name: torch.zeros_like(logits) for name, logits in known.items()}

    monkeypatch.setattr(Variants, "__call__", zeros)
    trainer(tiny, tmp_path / "zeros", METHODS["rslad"](), variants=2).fit()
    known, other = (RunFolder(tmp_path / at).metrics()[0]["loss"] for at in ("known", "zeros"))
    assert known != pytest.approx(other, rel=0.01)


class Hears(Watcher):
    """Notes what comes before the first step, and the steps."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def begin(self, total: int, done: int) -> None:
        self.heard.append(("begin", done, total))

    def prepared(self, done: int, total: int) -> None:
        self.heard.append(("prepared", done, total))

    def stepped(self, step: int, images: int) -> None:
        self.heard.append(("stepped", step))


def test_progress_is_told_before_the_first_step(tiny: DataSet, tmp_path: Path) -> None:
    watcher = Hears()
    trainer(tiny, tmp_path / "run", variants=2, watcher=watcher).fit()
    batches = -(-len(tiny.train) // 40)
    told = [("begin", 0, 12), *(("prepared", done, batches) for done in range(1, batches + 1))]
    assert watcher.heard == [*told, *(("stepped", step) for step in range(1, 13))]


def test_a_signal_is_heard_while_the_teacher_is_asked(tiny: DataSet, tmp_path: Path) -> None:
    class SendsEarly(Watcher):
        def prepared(self, done: int, total: int) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    trainer(tiny, tmp_path / "whole", variants=2).fit()
    with ended_by(signal.SIGTERM):
        trainer(tiny, tmp_path / "cut", variants=2, watcher=SendsEarly()).fit()
    state = RunFolder(tmp_path / "cut").load()
    assert state is not None
    assert state["step"] == 0
    trainer(tiny, tmp_path / "cut", variants=2).fit()
    assert_same_runs(tmp_path / "whole", tmp_path / "cut")


def test_a_run_whose_last_validation_was_cut_asks_no_teacher_again(tiny: DataSet, tmp_path: Path) -> None:
    with ended_by(signal.SIGTERM):
        trainer(tiny, tmp_path, variants=2, watcher=Sends(12, signal.SIGTERM)).fit()
    watcher = Hears()
    trainer(tiny, tmp_path, variants=2, watcher=watcher).fit()
    assert watcher.heard == [("begin", 12, 12)]
    assert len(RunFolder(tmp_path).metrics()) == 3


def test_variants_that_no_epoch_comes_to_are_not_drawn(tiny: DataSet, tmp_path: Path) -> None:
    trainer(tiny, tmp_path / "three", variants=3).fit()
    trainer(tiny, tmp_path / "many", variants=10**9).fit()
    assert_same_runs(tmp_path / "three", tmp_path / "many")


def test_the_time_of_the_variants_is_told_apart_from_the_steps(
    tiny: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was the first epoch's: its images per second and its seconds were those of the teacher's passes."""

    def slow(*of: Any) -> Variants:
        time.sleep(0.5)
        return draw_variants(*of)

    monkeypatch.setattr("mmard.training.trainer.draw_variants", slow)
    made = trainer(tiny, tmp_path / "run", variants=2)
    begun = time.perf_counter()
    made.fit()
    ends = time.perf_counter()
    first, *others = made.folder.metrics()
    assert first["prepared_seconds"] >= 0.5
    assert sum(line["seconds"] for line in (first, *others)) < ends - begun - 0.5
    assert first["images_per_second"] == pytest.approx(made.steps_per_epoch * made.plan.batch_size / first["seconds"])
    assert others
    assert not any("prepared_seconds" in line for line in others)


def test_a_run_with_other_variants_is_another_run(tiny: DataSet, tmp_path: Path) -> None:
    trainer(tiny, tmp_path / "run", variants=2).fit()
    with pytest.raises(MmardError, match=r"data\.variants: 2 → 3"):
        trainer(tiny, tmp_path / "run", variants=3).fit()
    with pytest.raises(MmardError, match=r"data\.variants: 2 → None"):
        trainer(tiny, tmp_path / "run").fit()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"data.variants": 0}, "setting 'data.variants' is 0: expected "),
        ({"data.variants": 2.5}, "setting 'data.variants' is 2.5: expected "),
        ({"data.variants": 2}, "data.variants=2 of data.augment=none are all the image itself; give data.variants=1"),
        ({"data.variants": 2, "data.augment": "idbh"}, "data.variants only move an image, and data.augment=idbh does more; choose"),
        (
            {"data.variants": 2, "data.augment_late.kind": "idbh"},
            "data.variants are drawn once, of the training images as they are; leave them or data.augment_late out",
        ),
        (
            {"data.variants": 2, "data.extra": "more.npz"},
            "data.variants are drawn once, of the training images as they are; leave them or data.extra out",
        ),
    ],
)  # fmt: skip
def test_wrong_variants_are_one_line(words: dict[str, Any], said: str) -> None:
    assert_refused(words, said)
