"""Data sets: splits by seed, stable indices, augmentation, other people's files, and what is wrong with them."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import SHARED_DATA, blobs
from hypothesis import given
from hypothesis import strategies as st

from mmard import MmardError
from mmard.data.augment import KINDS, augment, cutmix, random_colour_or_shape, random_erasing, random_zoom, sample_crop
from mmard.data.images import Images, split, stratified
from mmard.data.sources import load


def test_digits_have_three_disjoint_stratified_parts() -> None:
    data = load("digits")
    assert (len(data.train), len(data.held_out), len(data.test)) == (1293, 144, 360)
    indices = [set(part.index.tolist()) for part in (data.train, data.held_out, data.test)]
    assert sum(map(len, indices)) == len(set.union(*indices)) == 1797
    shares = [torch.bincount(part.labels) / len(part) for part in (data.train, data.held_out, data.test)]
    assert max((s - shares[0]).abs().max() for s in shares) < 0.02


def test_the_seed_cuts_the_held_out_split_and_nothing_else() -> None:
    one, same, other = load("digits", seed=1), load("digits", seed=1), load("digits", seed=2)
    assert torch.equal(one.held_out.index, same.held_out.index)
    assert not torch.equal(one.held_out.index, other.held_out.index)
    assert torch.equal(one.test.index, other.test.index)


def test_fewer_images_than_classes_are_of_classes_that_the_seed_draws() -> None:
    """The last classes had them, whatever the seed: a limit of 50 on 100 classes never saw the first 50."""
    labels = torch.arange(1000) % 100
    drawn = [labels[stratified(labels, 50, seed)[0]] for seed in range(8)]
    assert all(len(classes.unique()) == len(classes) == 50 for classes in drawn)
    assert len(torch.cat(drawn).unique()) > 90
    assert torch.equal(drawn[3], labels[stratified(labels, 50, 3)[0]])


def test_splits_in_which_every_class_has_an_image_stay_those_of_older_versions() -> None:
    """Runs go on with them, and published figures are of them: where classes are alike, the last have one more."""
    data = load("digits")
    assert torch.bincount(data.held_out.labels).tolist() == [14, 15, 14, 15, 14, 15, 15, 14, 14, 14]
    assert torch.bincount(data.test.labels).tolist() == [36, 36, 35, 37, 36, 37, 36, 36, 35, 36]
    labels = torch.arange(100) % 10
    for count, seed in ((20, 0), (25, 1), (38, 2)):
        kept, rest = (torch.bincount(labels[rows]).tolist() for rows in stratified(labels, count, seed))
        assert kept == [count // 10 + (k >= 10 - count % 10) for k in range(10)]
        assert [a + b for a, b in zip(kept, rest, strict=True)] == [10] * 10


def test_a_test_split_of_a_run_stays_where_an_older_version_cut_it() -> None:
    """Other images would be some that the run was trained on."""
    x, y = np.arange(400).astype(np.uint8).reshape(400, 1, 1, 1), np.arange(400) % 40
    with pytest.warns(UserWarning, match="no image of 20 of 40 classes"):
        data = load("python", given=(x, y), test_split=0.05)
    assert sorted(data.test.labels.tolist()) == list(range(20, 40))


def test_indices_name_the_same_image_in_every_split() -> None:
    whole, part = load("digits"), load("digits", limit=200, seed=3)
    place = {int(i): n for n, i in enumerate(whole.train.index)}
    known = [i for i in part.train.index.tolist() if i in place]
    assert len(known) > 100
    for i in known:
        row = int((part.train.index == i).nonzero())
        assert torch.equal(part.train.pixels[row], whole.train.pixels[place[i]])


def test_pixels_are_in_zero_to_one_and_uint8_at_rest() -> None:
    images = load("digits").test
    assert images.pixels.dtype == torch.uint8
    x, y, index = images.batch(slice(0, 5))
    assert x.shape == (5, 1, 8, 8)
    assert (x.min(), x.max()) == (0, 1)
    assert y.dtype == index.dtype == torch.int64


def test_mean_and_std_are_those_of_the_pixels() -> None:
    x, _, _ = (images := blobs(20, channels=3)).batch(slice(None))
    mean, std = images.mean_std()
    torch.testing.assert_close(torch.tensor(mean), x.mean((0, 2, 3)))
    torch.testing.assert_close(torch.tensor(std), x.transpose(0, 1).flatten(1).std(1))


@given(padding=st.integers(1, 4), seed=st.integers(0, 50))
def test_a_crop_is_a_window_of_the_padded_image(padding: int, seed: int) -> None:
    torch.manual_seed(seed)
    x = torch.rand(3, 2, 5, width := 8 * padding)
    padded = torch.nn.functional.pad(x, [padding] * 4)
    for image, wide in zip(sample_crop(x, "crop")(x), padded, strict=True):
        windows = wide.unfold(1, 5, 1).unfold(2, width, 1)
        assert any(
            torch.equal(windows[:, i, j], image) for i in range(windows.shape[1]) for j in range(windows.shape[2])
        )


def test_flips_mirror_about_half() -> None:
    torch.manual_seed(0)
    x = torch.rand(400, 1, 2, 3)
    flipped = (augment(x, "flip")[0] == x.flip(3)).flatten(1).all(1)
    kept = (augment(x, "none")[0] == x).flatten(1).all(1)
    assert 150 < flipped.sum() < 250
    assert kept.all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_augmentation_keeps_shape_and_range_and_follows_the_seed(kind: str, channels: int) -> None:
    x = torch.rand(32, channels, 12, 12)
    made = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        made.append(augment(x, kind)[0])
    assert made[0].shape == x.shape
    assert made[0].min() >= 0
    assert made[0].max() <= 1 + 1e-6
    assert torch.equal(made[0], made[1])
    assert torch.equal(made[0], made[2]) == (kind == "none")


def test_cutmix_keeps_the_larger_part_and_pastes_the_neighbour() -> None:
    """Images of one colour each: whatever is not an image's own colour is its neighbour's, and is less than half."""
    colours = torch.arange(200.0).view(200, 1, 1, 1) / 200
    mixed = cutmix(colours.expand(200, 3, 16, 16))
    own, pasted = mixed == colours, mixed == colours.roll(1, 0)
    assert (own ^ pasted).all()
    share = pasted.float().mean((1, 2, 3))
    assert share.max() < 0.5
    assert 0.1 < share.mean() < 0.3  # uniform to a half, boxes rounded down
    rows = pasted[:, 0].any(2).sum(1) * pasted[:, 0].any(1).sum(1)
    assert torch.equal(rows, pasted[:, 0].sum((1, 2)))  # one box, the same in every channel


def test_a_zoom_is_a_window_of_the_image_enlarged() -> None:
    """Of a slope it is a gentler slope within the same values; of both axes, for each image another."""
    torch.manual_seed(0)
    slope = torch.linspace(0, 1, 33).expand(300, 1, 33, 33)
    zoomed = random_zoom(torch.cat([slope, slope.transpose(2, 3)], 1))
    for channel, axis in ((0, 2), (1, 1)):
        steps = zoomed[:, channel].diff(dim=axis).narrow(axis, 4, 24)  # within, where no border is repeated
        assert (steps.amax((1, 2)) - steps.amin((1, 2))).max() < 1e-4
        share = steps.mean((1, 2)) * 32
        assert 0.2 < share.min() < 0.4  # √(0.08 · 3/4) is 0.245
        assert 0.95 < share.max() <= 1.001
    assert zoomed.min() >= 0
    assert zoomed.max() <= 1
    area = (zoomed[:, 0, 16, 20] - zoomed[:, 0, 16, 12]) * (zoomed[:, 1, 20, 16] - zoomed[:, 1, 12, 16]) * 16
    assert 0.4 < area.mean() < 0.6


def test_erasing_blackens_a_box_of_half_of_the_images() -> None:
    erased = random_erasing(torch.ones(1000, 1, 32, 32)) == 0
    share = erased.float().mean((1, 2, 3))
    assert 0.44 < (share > 0).float().mean() < 0.56
    assert share.max() <= 0.33


def test_one_change_of_colour_or_shape() -> None:
    """On grey images of one value contrast and saturation change nothing, brightness the value, shapes only the rim."""
    x = torch.full((1000, 3, 16, 16), 0.5)
    middle = random_colour_or_shape(x)[:, :, 6:10, 6:10]
    apply_extra = (middle - 0.5).abs().flatten(1).amax(1) > 1e-6
    assert 0.15 < apply_extra.float().mean() < 0.25
    assert middle.min() >= 0.25
    assert middle.max() <= 0.75
    assert middle[apply_extra].flatten(1).std(1).max() < 1e-6
    dot = torch.zeros(500, 3, 17, 17)
    dot[:, 0, 8, 8] = 1.0  # a red dot in the middle of black
    red = random_colour_or_shape(dot)
    assert (
        (red[:, 0, 8, 8] - 1).abs() < 1e-4
    ).float().mean() > 0.3  # turned and sheared about it, or brighter than white
    assert (red[:, 1:].sum((1, 2, 3)) > 0).any()  # less saturated


@pytest.mark.parametrize(
    ("pixels", "labels", "words"),
    [
        (np.zeros((0, 1, 2, 2), np.uint8), [], "empty: 0 images"),
        (np.eye(2, dtype=np.uint8).reshape(1, 1, 2, 2).repeat(2, 0), [0, 1], "uint8 and at most 1, expected 0 to 255"),
        (np.full((2, 1, 2, 2), 1.5), [0, 1], r"pixels lie in \[1.5, 1.5\], expected \[0, 1\]"),
        (np.full((2, 1, 2, 2), np.nan), [0, 1], "pixels lie in"),
        (np.zeros((2, 1, 2, 2), np.uint8), [0, -1], "without labels"),
        (np.zeros((2, 2), np.uint8), [0, 1], r"expected \(N, C, H, W\)"),
    ],
)
def test_bad_images_are_one_clear_line(pixels: np.ndarray, labels: list[int], words: str) -> None:
    with pytest.raises(MmardError, match=words):
        Images.of(pixels, np.array(labels, dtype=np.int64), ("a", "b"))


def test_no_class_is_held_out_as_a_whole() -> None:
    """Of a class of one image that one was held out, and the student never saw it."""
    labels = torch.cat([torch.zeros(40, dtype=torch.int64), torch.arange(1, 21)])
    images = Images(torch.zeros(60, 1, 2, 2, dtype=torch.uint8), labels, tuple(map(str, range(21))), torch.arange(60))
    data = split("long tail", images, images, held_out=0.1, seed=0)
    assert set(data.train.labels.tolist()) == set(range(21))
    assert len(data.train) + len(data.held_out) == 60
    assert len(data.held_out) >= 4


def test_one_class_is_too_few() -> None:
    images = blobs(40)
    one = images.take((images.labels == 0).nonzero().squeeze(1))
    with pytest.raises(MmardError, match="all of one class"):
        split("one", one, images, held_out=0.2, seed=0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of coloured PNGs in train/ and test/."""
    image = pytest.importorskip("PIL.Image")
    for part, count in (("train", 8), ("test", 4)):
        for name, colour in (("blue", (0, 0, 255)), ("red", (255, 0, 0))):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                image.new("RGB", (12 if i else 10, 10), colour).save(tmp_path / part / name / f"{i}.png")
    return tmp_path


def test_an_image_folder_with_a_size(folder: Path) -> None:
    data = load("imagefolder", root=str(folder), size=8, held_out=0.25)
    assert data.train.classes == ("blue", "red")
    assert data.test.pixels.shape == (8, 3, 8, 8)
    red = data.test.pixels[data.test.labels == 1]
    assert (red[:, 0] == 255).all()
    assert (red[:, 1:] == 0).all()


def test_several_sizes_need_one(folder: Path) -> None:
    with pytest.raises(MmardError, match=r"several sizes .* give data.size="):
        load("imagefolder", root=str(folder))


def test_parquet_files_and_an_undecodable_image(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    def png(level: int) -> bytes:
        file = io.BytesIO()
        Image.new("L", (6, 6), level).save(file, "png")
        return file.getvalue()

    def write(name: str, images: list[bytes]) -> str:
        struct = pa.array([{"bytes": b, "path": "x.png"} for b in images])
        features = {"img": {"_type": "Image"}, "label": {"names": ["dark", "light"], "_type": "ClassLabel"}}
        meta = json.dumps({"info": {"features": features}})
        table = pa.table({"img": struct, "label": pa.array([i % 2 for i in range(len(images))])})
        pq.write_table(table.replace_schema_metadata({"huggingface": meta}), tmp_path / name)
        return str(tmp_path / name)

    good = write("good.parquet", [png(250 * (i % 2)) for i in range(20)])
    data = load("parquet", train=good, test=good, held_out=0.2)
    assert data.train.classes == ("dark", "light")
    assert set(data.train.pixels[data.train.labels == 1].unique().tolist()) == {250}
    bad = write("bad.parquet", [png(0), b"no image"])
    with pytest.raises(MmardError, match="cannot be decoded"):
        load("parquet", train=good, test=bad)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "parquet"}, "needs both data.train"),
        (
            {"name": "parquet", "train": "no.parquet", "test": "no.parquet"},
            "no file no.parquet, which data.train names; give",
        ),
        ({"name": "imagefolder"}, "needs data.root"),
        ({"name": "cifra10"}, "unknown data set 'cifra10'"),
        ({"name": "digits", "held_out": 1.5}, "no share"),
    ],
)
def test_a_data_set_that_is_not_there_is_one_clear_line(arguments: dict[str, object], words: str) -> None:
    pytest.importorskip("datasets")
    with pytest.raises(MmardError, match=words):
        load(**arguments)  # type: ignore[arg-type]


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the real images are not here")
def test_real_cifar_images_with_names_and_limits() -> None:
    train, test = (str(SHARED_DATA / f"cifar10-jpeg-{part}.parquet") for part in ("train", "test"))
    data = load("parquet", train=train, test=test, limit=500, test_limit=200)
    assert data.train.pixels.shape == (450, 3, 32, 32)
    assert data.train.classes[0] == "airplane"
    assert torch.bincount(data.test.labels).tolist() == [20] * 10


def test_a_hub_name_with_the_columns_and_splits_of_cifar100_and_tiny_imagenet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`datasets` takes a folder owner/name for a hub's name: the same code, without the network."""
    datasets = pytest.importorskip("datasets")
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    features = datasets.Features(
        img=datasets.Image(),
        coarse_label=datasets.ClassLabel(names=["animal"]),
        fine_label=datasets.ClassLabel(names=["cat", "dog", "hen"]),
    )
    pictures = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(30)]
    rows = {"img": pictures, "coarse_label": [0] * 30, "fine_label": [i % 3 for i in range(30)]}
    (tmp_path / "somebody/pictures").mkdir(parents=True)
    for part in ("train", "valid"):
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / f"somebody/pictures/{part}.parquet")
    data = load("somebody/pictures", held_out=0.2)
    assert data.train.classes == ("cat", "dog", "hen")
    assert (len(data.train), len(data.held_out), len(data.test)) == (24, 6, 30)
    assert torch.equal(data.test.pixels[:, 0, 0, 0], torch.arange(30, dtype=torch.uint8))
    coarse = load("somebody/pictures", held_out=0.2, label="fine_label", size=4)
    assert coarse.train.pixels.shape[1:] == (3, 4, 4)


def test_a_class_without_training_images_is_one_clear_line(folder: Path) -> None:
    (folder / "test/green").mkdir()
    (folder / "test/red/0.png").rename(folder / "test/green/0.png")
    with pytest.raises(MmardError, match="no image of class 'green'"):
        load("imagefolder", root=str(folder), size=8)
