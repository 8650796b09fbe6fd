"""Pictures that a program gives one by one: turned as their EXIF says, of one shape, by the usual keys; else one line."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import Dataset

from mmard import MmardError
from mmard.data.images import DataSet
from mmard.data.sources import load

LABELS = [k % 2 for k in range(20)]


class Items(Dataset[Any]):
    def __init__(self, make: Any) -> None:
        self.make = make

    def __len__(self) -> int:
        return len(LABELS)

    def __getitem__(self, i: int) -> Any:
        return self.make(i)


def given(data: object) -> DataSet:
    return load("python", given=data, test_split=0.2)


def levels(i: int, *shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(i).integers(2, 256, shape, dtype=np.uint8)


def rotated(i: int) -> bytes:
    """A PNG of 8×6 whose EXIF says that it is to be turned by a quarter."""
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x112] = 6
    Image.fromarray(levels(i, 6, 8, 3)).save(file, "png", exif=exif)
    return file.getvalue()


def opened(file: bytes) -> Any:
    return Image.open(io.BytesIO(file))


@pytest.mark.parametrize(
    "way",
    [
        lambda: Items(lambda i: (opened(rotated(i)), LABELS[i])),
        lambda: ([opened(rotated(i)) for i in range(20)], LABELS),
        lambda: {"image": [opened(rotated(i)) for i in range(20)], "label": LABELS},
    ],
)
def test_pictures_are_turned_as_their_exif_says_wherever_they_come_from(tmp_path: Path, way: Any) -> None:
    for i, label in enumerate(LABELS):
        (tmp_path / str(label)).mkdir(exist_ok=True)
        (tmp_path / f"{label}/{i:02}.png").write_bytes(rotated(i))
    for data in (load("imagefolder", root=str(tmp_path), test_split=0.2), given(way())):
        found = {image.numpy().tobytes() for image in data.test.pixels.permute(0, 2, 3, 1)}
        upright = {np.rot90(levels(i, 6, 8, 3), -1).tobytes() for i in range(20)}
        assert data.test.shape == (3, 8, 6)
        assert len(found) == 4
        assert found < upright


def test_the_picture_that_was_given_stays_as_it_is_and_its_format_counts() -> None:
    """A 16-bit PNG is scaled by its format, also where its EXIF turns it; and the caller's picture is not turned."""
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x112] = 6
    Image.fromarray(np.full((6, 8), 65535, np.uint16)).save(file, "png", exif=exif)
    pictures = [opened(file.getvalue()) for _ in LABELS]
    with pytest.warns(UserWarning, match="16-bit images are scaled"):
        data = given(Items(lambda i: (pictures[i], LABELS[i])))
    assert data.train.shape == (1, 8, 6)
    assert data.train.in_memory().pixels.min() == 255
    assert pictures[0].size == (8, 6)
    assert pictures[0].getexif()[0x112] == 6


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (lambda: Items(lambda i: (levels(i, 4 if i == 3 else 3, 8, 8), 0)), r"item 3 .* shape \(4, 8, 8\).*1 or 3 channels"),
        (lambda: Items(lambda i: (levels(i, 8, 8, 4 if i == 3 else 3), 0)), r"item 3 .* shape \(8, 8, 4\).*1 or 3 channels"),
        (lambda: Items(lambda i: (None, 0)), r"item 0 .* shape \(\)"),
        (lambda: Items(lambda i: (levels(i, 3, 8, 0), 0)), r"shape \(20, 3, 8, 0\) have no pixels"),
        (lambda: (levels(0, 20, 3, 8, 0), LABELS), r"shape \(20, 3, 8, 0\) have no pixels"),
        (lambda: (np.zeros((20, 0, 8, 3)), LABELS), r"shape \(20, 3, 0, 8\) have no pixels"),
        (lambda: (np.zeros((20, 0, 8), np.int64), LABELS), r"shape \(20, 1, 0, 8\) have no pixels"),
        (lambda: Items(lambda i: (opened(rotated(i)[:-60]), 0)), "picture of item 0 cannot be decoded: .*; leave"),
        (lambda: Items(lambda i: (Image.new("I", (8, 8)), 0)), "item 0 of the data set: pixels of the mode 'I'"),
    ],
)  # fmt: skip
def test_pictures_of_another_shape_or_kind_are_one_line(data: Any, words: str) -> None:
    with pytest.raises(MmardError, match=words) as e:
        given(data())
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("pixels", ["pixel_values", "image"])
@pytest.mark.parametrize("label", ["labels", "label"])
def test_items_and_columns_with_the_names_that_transformers_has_are_found(pixels: str, label: str) -> None:
    import datasets

    x = np.stack([levels(i, 8, 8) for i in range(20)])
    items = Items(lambda i: {pixels: x[i], label: LABELS[i]})
    table = datasets.Dataset.from_dict({pixels: x.tolist(), label: LABELS})
    for data in (items, table, {pixels: x, label: LABELS}):
        test = given(data).test
        assert np.array_equal(test.pixels[:, 0].numpy(), x[test.index])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (Items(lambda i: {"scan": 1, "label": 0}), "keys scan, label; .*: name them, data.image=KEY data.label=KEY"),
        (Items(lambda i: {"image": 1, "sort": 0}), "keys image, sort; .*: name them, data.image=KEY data.label=KEY"),
        (Items(lambda i: {}), "item 0 has the keys none"),
    ],
)
def test_keys_that_are_not_found_are_one_line_that_names_both_settings(data: Any, words: str) -> None:
    with pytest.raises(MmardError, match=words):
        given(data)


def test_columns_of_pixels_are_named_by_the_setting_that_the_line_says() -> None:
    import datasets

    table = datasets.Dataset.from_dict({"scan": [levels(i, 8, 8).tolist() for i in range(20)], "label": LABELS})
    with pytest.raises(MmardError, match=r"no image column among scan, label; .*name one of pixels: data.image=COLUMN"):
        given(table)
    assert load("python", given=table, test_split=0.2, image="scan").train.shape == (1, 8, 8)
    some = datasets.Dataset.from_dict({"x": [None, *([[[200] * 8] * 8] * 19)], "label": LABELS})
    with pytest.raises(MmardError, match="1 of 20 images in the column 'x' are missing; leave those rows out"):
        given(some)
