"""Extra images in every batch: their exact share, their labels, the same on resume and with several processes."""

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from helpers import blobs, small_net
from test_training import Stops, assert_same_runs, trainer

from mmard import MmardError
from mmard.data.extra import UNKNOWN, Extra, spread
from mmard.data.images import DataSet, Images
from mmard.data.overlap import warn_of_shared_extra
from mmard.methods import METHODS
from mmard.models.weights import read_state
from mmard.training.engine import Engine
from mmard.training.loader import BatchLoader

MORE = blobs(150, seed=40)
SOURCE = tuple("0123")


def saved(folder: Path, **arrays: Any) -> str:
    given = {"image": MORE.pixels.permute(0, 2, 3, 1).numpy(), "label": MORE.labels.numpy(), **arrays}
    np.savez(folder / "more.npz", **{key: value for key, value in given.items() if value is not None})
    return str(folder / "more.npz")


def extra(images: Any, folder: Path, ratio: float = 0.7, by: str | None = None, **arrays: Any) -> Extra:
    return Extra.read(saved(folder, **arrays), ratio, by, SOURCE, images)


def loader(images: Images, more: Extra | None, world: int = 1, rank: int = 0, size: int = 40) -> BatchLoader:
    engine = cast(Engine, SimpleNamespace(world=world, rank=rank, greatest=lambda seconds: seconds))
    return BatchLoader(images=images, batch_size=size, seed=3, engine=engine, extra=more)


@pytest.mark.parametrize("ratio", [0.7, 0.5, 0.05])
def test_every_batch_has_the_exact_share_of_images_and_labels_of_both_kinds(
    ratio: float, tiny: DataSet, tmp_path: Path
) -> None:
    images = tiny.train
    batches = loader(images, extra(images, tmp_path, ratio))
    assert batches.steps_per_epoch == len(images) // 40  # as many as without
    beyond = int(images.index.max()) + 1
    seen, visits = set[int](), []
    for x, y, index in batches.batches(0, 5 * batches.steps_per_epoch):
        more = index >= beyond
        assert int(more.sum()) == round(40 * ratio)
        for half in (more[:20], more[20:]):  # also in a part of a batch, up to one image
            assert abs(int(half.sum()) - 20 * ratio) <= 1
        for pixels, label, number in zip(x, y, index.tolist(), strict=True):
            of = MORE if number >= beyond else images
            row = number - beyond if number >= beyond else int((images.index == number).nonzero())
            assert torch.equal((pixels * 255).round().byte(), of.pixels[row])
            assert label == of.labels[row]
        seen |= set(index[more].tolist())
        visits += index[~more].tolist()
    drawn = 5 * batches.steps_per_epoch * round(40 * ratio)
    assert len(seen) >= min(len(MORE) - round(40 * ratio), drawn)  # without repeats until all have had their turn
    turn = (
        len(images) // (40 - round(40 * ratio)) * (40 - round(40 * ratio))
    )  # images of the training set that have a turn
    assert len(set(visits[:turn])) == len(visits[:turn])


@pytest.mark.parametrize("ratio", [0.7, 0.33])
def test_processes_share_the_batch_of_one(ratio: float, tiny: DataSet, tmp_path: Path) -> None:
    more = extra(tiny.train, tmp_path, ratio)
    alone = list(loader(tiny.train, more).batches(3, 9))
    parts = [list(loader(tiny.train, more, 4, rank).batches(3, 9)) for rank in range(4)]
    for step, (_, _, index) in enumerate(alone):
        shares = [part[step][2] for part in parts]
        assert [len(share) for share in shares] == [10] * 4
        assert sorted(torch.cat(shares).tolist()) == sorted(index.tolist())
    whole = [list(loader(tiny.train, more, 4, rank).natural()) for rank in (0, 3)]
    assert torch.equal(torch.cat(whole[0]), torch.cat(whole[1]))
    assert len(whole[0][0]) == 40


def test_without_extra_images_nothing_changes(tiny: DataSet) -> None:
    """The order is what it was before there were any: by hand, from the seed."""
    from mmard.utils.numbers import seed_of

    order = torch.randperm(len(tiny.train), generator=torch.Generator().manual_seed(seed_of(3, "order", 1)))
    steps = len(tiny.train) // 40
    (_, _, index), *_ = loader(tiny.train, None).batches(steps, steps + 1)
    assert torch.equal(index, tiny.train.index[order[:40]])


@pytest.mark.parametrize("by", ["file", "teacher"])
def test_a_resumed_run_with_extra_images_is_bit_equal(by: str, tiny: DataSet, tmp_path: Path) -> None:
    more = extra(tiny.train, tmp_path, 0.7, by)
    one, other = tmp_path / "one", tmp_path / "other"
    trainer(tiny, one, extra=more).fit()
    with pytest.raises(KeyboardInterrupt):
        trainer(tiny, other, extra=more, watcher=Stops(6)).fit()
    trainer(tiny, other, extra=more).fit()
    assert_same_runs(one, other)
    trainer(tiny, tmp_path / "none").fit()
    with pytest.raises(AssertionError):
        assert_same_runs(one, tmp_path / "none")


def test_a_teacher_that_is_trained_on_names_extra_images_in_evaluation_mode(tiny: DataSet, tmp_path: Path) -> None:
    """It stays in training mode from step to step, and a resumed run begins with it in the other."""
    more = extra(tiny.train, tmp_path, 0.7, "teacher")
    one, other = tmp_path / "one", tmp_path / "other"
    trainer(tiny, one, METHODS["ciard"](begin=0.0), extra=more).fit()
    with pytest.raises(KeyboardInterrupt):
        trainer(tiny, other, METHODS["ciard"](begin=0.0), extra=more, watcher=Stops(6)).fit()
    trainer(tiny, other, METHODS["ciard"](begin=0.0), extra=more).fit()
    assert_same_runs(one, other)
    taught = [read_state(folder / "teacher.safetensors") for folder in (one, other)]
    assert all(torch.equal(taught[0][name], taught[1][name]) for name in taught[0])


def test_a_run_does_not_go_on_with_other_extra_images(tiny: DataSet, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        trainer(tiny, tmp_path / "run", extra=extra(tiny.train, tmp_path), watcher=Stops(6)).fit()
    for other in (
        extra(tiny.train, tmp_path, label=(MORE.labels.numpy() + 1) % 4),
        extra(tiny.train, tmp_path, 0.5),
        None,
    ):
        with pytest.raises(MmardError, match=r"is of a run with other settings: data\.extra"):
            trainer(tiny, tmp_path / "run", extra=other).fit()


def test_the_teacher_names_the_natural_image(tiny: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the update gets as labels: the teacher's classes for the extra images, their own for all others."""
    run = trainer(
        tiny, tmp_path / "run", METHODS["rslad"](), extra=extra(tiny.train, tmp_path, label=None), augmentation="none"
    )
    teacher, beyond, looked = small_net(seed=9).eval(), int(tiny.train.index.max()) + 1, []

    def update(x: torch.Tensor, y: torch.Tensor, index: torch.Tensor, *_: object) -> dict[str, torch.Tensor]:
        more = index >= beyond
        assert torch.equal(y[more], teacher(x[more]).argmax(1))
        assert not (y == UNKNOWN).any()
        looked.append(
            torch.equal(y[~more], tiny.train.labels[[int((tiny.train.index == i).nonzero()) for i in index[~more]]])
        )
        return {"loss": x.sum()}

    update.predictors = run.update.predictors  # type: ignore[attr-defined]
    monkeypatch.setattr(run, "update", update)
    for batch in run.loader.batches(0, 3):
        run._one_step(*batch)
    assert looked == [True] * 3


def test_words_and_names_in_the_file_are_the_training_sets_classes(tmp_path: Path) -> None:
    names = ("ant", "bee", "cat", "dog")
    images = Images.of(MORE.pixels, MORE.labels, names[::-1])  # numbered as some model has them
    want = 3 - MORE.labels
    for arrays in (
        {"label": np.array(names)[MORE.labels]},
        {"class_names": np.array(names)},
        {},
    ):
        found = Extra.read(saved(tmp_path, **arrays), 0.5, None, names, images)
        assert found.labels is not None
        assert torch.equal(found.labels, want)


def test_stored_images_stay_on_the_disk_and_compressed_ones_are_the_same(tmp_path: Path) -> None:
    stored = extra(MORE, tmp_path)
    base: Any = stored.pixels
    while not isinstance(base, np.memmap) and base is not None:
        base = base.base
    assert isinstance(base, np.memmap)
    np.savez_compressed(tmp_path / "small.npz", x=MORE.pixels.numpy(), y=MORE.labels.numpy())
    small = Extra.read(str(tmp_path / "small.npz"), 0.5, None, SOURCE, MORE)
    assert np.array_equal(small.pixels, stored.pixels)
    floats = extra(MORE, tmp_path, image=MORE.pixels.numpy() / 255)
    assert np.array_equal(floats.pixels, small.pixels)


@pytest.mark.parametrize(
    ("arrays", "options", "words"),
    [
        ({"label": None}, {"by": "file"}, "has the keys image; expected image and label, or data.extra_labels=teacher"),
        ({"image": None}, {}, "has the keys label; expected image and label"),
        ({"image": np.zeros((150, 3, 9, 9), np.uint8)}, {}, r"has images of shape \(150, 3, 9, 9\), expected \(M, 1, 8, 8\)"),
        ({"label": np.zeros(4, int)}, {}, "has 150 images and 4 labels; expected as many"),
        ({"label": np.zeros(0, int)}, {}, "has 150 images and 0 labels; expected as many"),
        ({"label": np.eye(4)[np.arange(150) % 4]}, {}, r"labels of .* \(150, 4\)"),
        ({"label": np.full(150, 7)}, {}, r"labels of .* lie in \[7, 7\], expected 0 to 3"),
        ({"label": np.array(["emu"] * 150)}, {}, "has the class 'emu', the training set has not: 0, 1, 2, 3"),
        ({"label": np.array([None] * 150)}, {}, "'label' holds pickled Python objects"),
        ({}, {"ratio": 0.001}, r"data.extra_ratio=0.001 of a batch of 40 is 0 images; expected some of both kinds"),
        ({"image": MORE.pixels.numpy()[:9], "label": None}, {}, "has 9 images, and a batch takes 28; give more"),
    ],
)  # fmt: skip
def test_extra_images_that_cannot_be_are_one_line(
    arrays: dict[str, Any], options: dict[str, Any], words: str, tiny: DataSet, tmp_path: Path
) -> None:
    with pytest.raises(MmardError, match=words) as e:
        loader(tiny.train, extra(tiny.train, tmp_path, **options, **arrays))
    assert "\n" not in str(e.value)


def test_the_places_of_extra_images_are_evenly_spread() -> None:
    for count, total in ((28, 40), (1, 7), (6, 7)):
        places = spread(count, total)
        assert int(places.sum()) == count
        assert torch.equal(torch.cat([spread(count, total, 0, 3), spread(count, total, 3)]), places)


def test_extra_images_that_are_test_images_are_told(tiny: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    both = torch.cat([MORE.pixels, tiny.test.in_memory().pixels[:7]]).numpy()
    with pytest.warns(UserWarning, match="7 of 80 test images are images of data.extra too"):
        warn_of_shared_extra(both, tiny.test)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_shared_extra(MORE.pixels.numpy(), tiny.test)
        monkeypatch.setattr("mmard.data.overlap.LARGEST", both.size - 1)  # too much to look at
        warn_of_shared_extra(both, tiny.test)
