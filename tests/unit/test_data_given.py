"""Images given by a program, and what is common to all sources: the cut test split, channels and sizes."""

from typing import Any

import numpy as np
import pytest
import torch
from helpers import blobs
from torch.utils.data import DataLoader, Subset, TensorDataset

from mmard import MmardError
from mmard.data.images import DataSet, Images
from mmard.data.sources import load

BLOBS = blobs(80)


def given(data: object, **options: Any) -> DataSet:
    return load("python", given=data, **options)


def pixels_of(data: DataSet) -> torch.Tensor:
    """All images of a data set, in the order in which they were given."""
    parts = [part.in_memory() for part in (data.train, data.held_out, data.test)]
    return torch.cat([p.pixels for p in parts])[torch.cat([p.index for p in parts]).argsort()]


class Items(torch.utils.data.Dataset[tuple[Any, Any]]):
    """Pictures of one kind, with names of classes, as torchvision's data sets are."""

    classes = ("ant", "bee", "cat", "dog")

    def __init__(self, make: Any) -> None:
        self.make = make

    def __len__(self) -> int:
        return len(BLOBS)

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        return self.make(BLOBS.pixels[i]), int(BLOBS.labels[i])


def picture(pixels: torch.Tensor) -> Any:
    from PIL import Image

    return Image.fromarray(pixels[0].numpy())


def rows() -> Any:
    import datasets

    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=list(Items.classes)))
    columns = {"image": [picture(p) for p in BLOBS.pixels], "label": BLOBS.labels.tolist()}
    return datasets.Dataset.from_dict(columns, features=features)


X, Y = BLOBS.pixels, BLOBS.labels
WAYS: dict[str, Any] = {
    "tensors": lambda: (X, Y),
    "arrays in [0, 1]": lambda: (X.numpy() / 255, Y.numpy()),
    "channels last": lambda: (X.permute(0, 2, 3, 1).numpy(), Y[:, None].numpy()),
    "no channels": lambda: (X[:, 0].numpy(), Y.tolist()),
    "words": lambda: (X, np.array(Items.classes)[Y]),
    "bytes": lambda: (X, np.array([c.encode() for c in Items.classes])[Y]),
    "Images": lambda: Images.of(X, Y, Items.classes),
    "TensorDataset": lambda: TensorDataset(X.float() / 255, Y),
    "Dataset of pictures": lambda: Items(picture),
    "Dataset of arrays": lambda: Items(lambda p: p.permute(1, 2, 0).numpy()),
    "Subset": lambda: Subset(Items(lambda p: p / 255), range(len(X))),
    "datasets.Dataset": rows,
    "mapping of arrays": lambda: {"images": X.numpy(), "labels": Y.numpy(), "class_names": np.array(Items.classes)},
}
NAMED = {
    "words",
    "bytes",
    "Images",
    "Dataset of pictures",
    "Dataset of arrays",
    "Subset",
    "datasets.Dataset",
    "mapping of arrays",
}


@pytest.mark.parametrize("way", WAYS)
def test_the_same_images_come_from_whatever_a_program_has(way: str) -> None:
    data = given(WAYS[way](), test_split=0.25)
    assert torch.equal(pixels_of(data), X)
    assert data.test.classes == (Items.classes if way in NAMED else tuple("0123"))
    for part in (data.train, data.held_out, data.test):
        assert torch.equal(part.labels, Y[part.index])


def test_training_and_test_images_are_given_in_every_usual_way() -> None:
    other = blobs(40, seed=5)
    for both in (
        ((X, Y), (other.pixels, other.labels)),
        (X, Y, other.pixels, other.labels),
        {"train": (X, Y), "test": other},
        {"x_train": X, "y_train": Y, "x_test": other.pixels, "y_test": other.labels},
        (TensorDataset(X, Y), TensorDataset(other.pixels, other.labels)),
    ):
        data = given(both)
        assert torch.equal(data.test.pixels, other.pixels)
        assert len(data.train) + len(data.held_out) == len(X)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (lambda: (X, Y), r"no test images.*data\.test_split=0\.2"),
        (lambda: DataLoader(TensorDataset(X, Y)), "got a DataLoader.*loader.dataset"),
        (lambda: 7, "data are a int, expected arrays"),
        (lambda: "folder", "data are a str, expected arrays"),
        (lambda: {"a": X, "b": Y}, "the mapping has the keys a, b; expected images and labels"),
        (lambda: TensorDataset(X), r"item 0 of the data set is a tuple, expected \(picture, label\)"),
        (lambda: TensorDataset(X.float() / 255 - 0.5, Y), r"pixels lie in \[-0.5.*do not normalise"),
        (lambda: Items(lambda p: 1 / 0), "item 0 of the data set fails: ZeroDivisionError"),
        (lambda: Items(lambda p: torch.rand(1, 8, 8)), "gives another image 0 each time"),
        (lambda: Items(lambda p: picture(p).resize((int(p[0, 0, 0]) % 3 + 8, 8))), "several sizes .*data.size="),
        (lambda: (X, Y + 0.5), "labels hold 0.5, expected whole class numbers"),
        (lambda: (X.repeat(1, 4, 1, 1), Y), "4 channels, expected 1 or 3"),
        (lambda: (X, Y[:5]), "with 5 labels; expected"),
    ],
)  # fmt: skip
def test_what_is_no_data_is_one_line(data: Any, words: str) -> None:
    split = {} if "test_split" in words else {"test_split": 0.25}
    with pytest.raises(MmardError, match=words) as e:
        given(data(), **split)
    assert "\n" not in str(e.value)
