"""Images given by a program, and what is common to all sources: the cut test split, channels and sizes."""

import io
import json
import os
import tarfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import blobs
from torch.utils.data import DataLoader, Subset, TensorDataset

from mmard import MmardError
from mmard.data.extra import Extra
from mmard.data.images import DataSet, Images
from mmard.data.labels import Known
from mmard.data.sources import load

BLOBS = blobs(80)


def given(data: object, **options: Any) -> DataSet:
    return load("python", given=data, **options)


def pixels_of(data: DataSet) -> torch.Tensor:
    """All images of a data set, in the order in which they were given."""
    parts = [part.in_memory() for part in (data.train, data.held_out, data.test)]
    return torch.cat([p.pixels for p in parts])[torch.cat([p.index for p in parts]).argsort()]


class RandomFlip:
    """A flip of half of the pictures, at each look anew."""

    def __init__(self) -> None:
        self.draw = torch.Generator().manual_seed(4)  # the first picture comes the same way twice

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.flip(-1) if torch.rand((), generator=self.draw) < 0.5 else pixels


class FailsLater(torch.utils.data.Dataset[tuple[Any, Any]]):
    """A set whose own code is wrong, which is no lack of a length."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        if i == 3:
            raise TypeError("not this one")
        return BLOBS.pixels[i], int(BLOBS.labels[i])


class NamedOfNone(FailsLater):
    """A set with names of classes and without labels."""

    classes = ("ant", "bee", "cat", "dog")

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        return BLOBS.pixels[i], None


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
    "words in a column": lambda: (X, np.array(Items.classes)[Y][:, None]),
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
    "words in a column",
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


def test_true_and_false_in_a_column_are_two_classes() -> None:
    data = given((X, (Y > 1)[:, None]), test_split=0.25)
    assert data.train.classes == ("False", "True")
    assert torch.equal(data.test.labels, (Y > 1)[data.test.index].long())


def test_training_and_test_images_are_given_in_every_usual_way() -> None:
    other = blobs(40, seed=5)
    for both in (
        ((X, Y), (other.pixels, other.labels)),
        (X, Y, other.pixels, other.labels),
        {"train": (X, Y), "test": other},
        {"x_train": X, "y_train": Y, "x_test": other.pixels, "y_test": other.labels},
        {"x": X, "y": Y, "x_test": other.pixels, "y_test": other.labels},
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
        (lambda: Items(RandomFlip()), r"gives another image \d+ each time"),
        (lambda: FailsLater(), "item 3 of the data set fails: TypeError: not this one"),
        (lambda: NamedOfNone(), "labels"),
        (lambda: Items(lambda p: picture(p).resize((int(p[0, 0, 0]) % 3 + 8, 8))), "several sizes .*data.size="),
        (lambda: (X, Y + 0.5), "labels hold 0.5, expected whole class numbers"),
        (lambda: (X.repeat(1, 4, 1, 1), Y), "4 channels, expected 1 or 3"),
        (lambda: (X, Y[:5]), "with 5 labels; expected"),
        (lambda: TensorDataset(X, torch.eye(4)[Y]), "one row a sample|one-hot|argmax"),
        (lambda: TensorDataset(X, torch.eye(4)[Y].bool()), r"shape \(80, 4\) of 4 values a sample.*take .argmax"),
        (lambda: (X, torch.eye(4)[Y].bool()), r"shape \(80, 4\) of 4 values a sample.*take .argmax"),
        (lambda: (X, np.array([["ant", "bee"]] * 80)), r"shape \(80, 2\) of 2 values a sample"),
    ],
)  # fmt: skip
def test_what_is_no_data_is_one_line(data: Any, words: str) -> None:
    split = {} if "test_split" in words else {"test_split": 0.25}
    with pytest.raises(MmardError, match=words) as e:
        given(data(), **split)
    assert "\n" not in str(e.value)


def write_npz(folder: Path, **arrays: Any) -> dict[str, Any]:
    np.savez(folder / "a.npz", **arrays)
    return {"name": "npz", "train": str(folder / "a.npz")}


def tar_of(path: Path, samples: list[dict[str, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for n, sample in enumerate(samples):
            for ending, content in sample.items():
                info = tarfile.TarInfo(f"part/{n:04}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def encoded(n: int) -> bytes:
    buffer = io.BytesIO()
    picture(X[n]).save(buffer, "PNG")
    return buffer.getvalue()


def by_npz(folder: Path, words: bool) -> dict[str, Any]:
    y = np.array(Items.classes)[Y] if words else Y.numpy()
    return write_npz(folder, image=X.permute(0, 2, 3, 1).numpy(), label=y)


def by_csv(folder: Path, words: bool) -> dict[str, Any]:
    (folder / "pics").mkdir()
    for n in range(len(X)):
        (folder / "pics" / f"{n:03}.png").write_bytes(encoded(n))
    lines = [f"pics/{n:03}.png,{Items.classes[Y[n]] if words else int(Y[n])}" for n in range(len(X))]
    (folder / "a.csv").write_text("\n".join(["path,label", *lines]))
    return {"name": "csv", "train": str(folder / "a.csv")}


def by_tar(folder: Path, words: bool) -> dict[str, Any]:
    for shard, rows in enumerate(torch.arange(len(X)).split(30)):
        samples = [
            {"png": encoded(n), "cls": str(int(Y[n])).encode()}
            if not words
            else {"json": json.dumps({"label": Items.classes[Y[n]]}).encode(), "png": encoded(n)}
            for n in rows.tolist()
        ]
        tar_of(folder / f"s-{shard:03}.tar", samples)
    return {"name": "webdataset", "train": str(folder / "s-{000..002}.tar")}


def by_folder(folder: Path, words: bool) -> dict[str, Any]:
    for n in range(len(X)):
        place = folder / "d" / (Items.classes[Y[n]] if words else str(int(Y[n])))
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{n:03}.png").write_bytes(encoded(n))
    return {"name": "imagefolder", "root": str(folder / "d")}


def by_parquet(folder: Path, words: bool) -> dict[str, Any]:
    import pandas as pd

    y = [Items.classes[k] if words else int(k) for k in Y]
    table = pd.DataFrame({"image": [encoded(n) for n in range(len(X))], "label": y}, index=range(7, 7 + len(X)))
    table.to_parquet(folder / "a.parquet")
    return {"name": "parquet", "train": str(folder / "a.parquet")}


def by_nested_parquet(folder: Path, words: bool) -> dict[str, Any]:
    import pandas as pd

    y = [Items.classes[k] if words else int(k) for k in Y]
    pd.DataFrame({"x": [p[0].tolist() for p in X], "label": y}).to_parquet(folder / "b.parquet")
    return {"name": "parquet", "train": str(folder / "b.parquet")}


@pytest.mark.parametrize("words", [False, True], ids=["numbers", "words"])
@pytest.mark.parametrize("write", [by_npz, by_csv, by_tar, by_folder, by_parquet, by_nested_parquet])
def test_files_of_every_kind_hold_the_same_images(tmp_path: Path, write: Any, words: bool) -> None:
    data = load(**write(tmp_path, words), test_split=0.25)
    everything = pixels_of(data)
    same = (
        everything.flatten(1).sort(0)[0] if write is by_folder else everything
    )  # a folder's images are in its own order
    assert torch.equal(same, X.flatten(1).sort(0)[0] if write is by_folder else X)
    assert data.train.classes == (Items.classes if words else tuple("0123"))
    assert len(data.test) == 20
    assert torch.bincount(data.test.labels).tolist() == [5, 5, 5, 5]


def new_folder(path: Path) -> Path:
    path.mkdir()
    return path


def by_csv_of(folder: Path, labels: list[str]) -> dict[str, Any]:
    options, lines = by_csv(folder, False), [f"pics/{n:03}.png,{label}" for n, label in enumerate(labels)]
    (folder / "a.csv").write_text("\n".join(["path,label", *lines]))
    return options


def by_tar_of(folder: Path, labels: list[str]) -> dict[str, Any]:
    tar_of(folder / "a.tar", [{"png": encoded(n), "cls": label.encode()} for n, label in enumerate(labels)])
    return {"name": "webdataset", "train": str(folder / "a.tar")}


def by_json_of(folder: Path, labels: list[str]) -> dict[str, Any]:
    tar_of(folder / "a.tar", [{"png": encoded(n), "json": b'{"label": %s}' % k.encode()} for n, k in enumerate(labels)])
    return {"name": "webdataset", "train": str(folder / "a.tar")}


def by_npz_of(folder: Path, labels: list[str]) -> dict[str, Any]:
    return write_npz(folder, x=X, y=np.array(labels))


@pytest.mark.parametrize("write", [by_csv_of, by_tar_of, by_json_of, by_npz_of])
def test_class_numbers_with_a_point_are_class_numbers_in_text_too(tmp_path: Path, write: Any) -> None:
    """Pandas writes 10.0 for class 10 beside a missing label; as words, "10.0" came before "2.0"."""
    numbers = torch.arange(len(X)) % 12
    data = load(**write(tmp_path, [f"{k}.0" for k in numbers]), test_split=0.4)
    assert data.train.classes == tuple(map(str, range(12)))
    assert torch.equal(data.test.labels, numbers[data.test.index])


@pytest.mark.parametrize("write", [by_csv_of, by_tar_of, by_npz_of])
def test_text_that_is_no_number_beside_numbers_is_refused(tmp_path: Path, write: Any) -> None:
    for odd, words in (
        ("nan", "20 of 80 .*missing"),
        ("1.5", "hold 1.5, expected whole class numbers"),
        ("-1", "lie in"),
    ):
        with pytest.raises(MmardError, match=words):
            load(**write(new_folder(tmp_path / odd), ["0.0", "1.0", "2.0", odd] * 20), test_split=0.25)


@pytest.mark.parametrize("write", [by_csv, by_tar, by_folder, by_parquet])
def test_sources_on_disk_stream_the_same_images(tmp_path: Path, write: Any) -> None:
    options = write(tmp_path, True)
    kept, streamed = (load(**options, test_split=0.25, stream=stream) for stream in (False, True))
    assert torch.equal(streamed.train.in_memory().pixels, kept.train.in_memory().pixels)
    assert not isinstance(streamed.train, Images)


def test_extra_images_stand_in_batches_that_are_decoded_as_in_those_in_memory(tmp_path: Path) -> None:
    options, more = by_csv(tmp_path, True), blobs(30, seed=4)
    write_npz(tmp_path, x=more.pixels, y=more.labels)
    found = []
    for stream in (False, True):
        data = load(**options, test_split=0.25, stream=stream)
        extra = Extra.read(str(tmp_path / "a.npz"), 0.5, None, data.source, data.train)
        rows = [(torch.arange(k, k + 4), torch.arange(2 * k, 2 * k + 4)) for k in range(12)]
        found.append(list(extra.mixed_into(data.train, rows)))
    assert len(found[0]) == 12
    for one, other in zip(*found, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_test_split_is_cut_by_its_own_seed_from_all_others_apart(tmp_path: Path) -> None:
    """Neither the splits' seed, a limit, the held-out share nor a model's order of classes changes which images are tested on."""
    options = by_npz(tmp_path, True)
    one = load(**options, test_split=0.25)
    known = Known.of("a model", Items.classes[::-1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the order
        others = [
            load(**options, test_split=0.25, **more)
            for more in ({"seed": 5}, {"limit": 40}, {"held_out": 0.3}, {"model": known})
        ]
    for other in others:
        assert torch.equal(other.test.index, one.test.index)
        parts = [set(part.index.tolist()) for part in (other.train, other.held_out, other.test)]
        assert sum(map(len, parts)) == len(set.union(*parts))
    assert not torch.equal(load(**options, test_split=0.25, test_seed=1).test.index, one.test.index)


def test_a_file_with_both_parts_needs_no_cut(tmp_path: Path) -> None:
    options = write_npz(tmp_path, train_images=X[:60], train_labels=Y[:60], test_images=X[60:], test_labels=Y[60:])
    assert torch.equal(load(**options).test.pixels, X[60:])
    with pytest.raises(MmardError, match=r"has test images of its own \(test\); leave out"):
        load(**options, test_split=0.2)


def test_grey_stays_one_channel_on_request_and_three_are_made_for_a_model_that_takes_three() -> None:
    from PIL import Image

    colour = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    y = torch.arange(40) % 4
    assert given((X, Y), test_split=0.25, channels=1).train.channels == 1
    grey = given((colour, y), test_split=0.25, channels=1)
    luma = [torch.from_numpy(np.array(Image.fromarray(p.permute(1, 2, 0).numpy()).convert("L"))) for p in colour]
    assert torch.equal(pixels_of(grey)[:, 0], torch.stack(luma))
    with pytest.warns(UserWarning, match="three equal channels, which an adversary may colour"):
        three = given((X, Y), test_split=0.25, model=Known.of("a model", (), 4, 3))
    assert torch.equal(pixels_of(three), X.expand(-1, 3, -1, -1))


def test_arrays_that_come_one_by_one_are_resized_too() -> None:
    """The size asked for was ignored where a torch Dataset gives tensors."""
    assert torch.equal(
        pixels_of(given(TensorDataset(X, Y), test_split=0.25, size=4)),
        pixels_of(given((X, Y), test_split=0.25, size=4)),
    )


@pytest.mark.parametrize("options", [{}, {"fit": "stretch"}, {"resize": 16}])
def test_sizes_are_made_by_cutting_stretching_or_padding(options: dict[str, Any]) -> None:
    """A picture of 12×8 as a program's own, and as a file's, which must be the same."""
    from PIL import Image

    wide = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8))
    cubic = Image.Resampling.BICUBIC
    by_hand = {
        (): wide.crop((2, 0, 10, 8)),
        ("stretch",): wide.resize((8, 8), cubic),
        (16,): wide.resize((24, 16), cubic).crop((8, 4, 16, 12)),
    }[tuple(options.values())]
    items = [(wide, k % 2) for k in range(20)]
    array = np.stack([np.asarray(wide)] * 20), [k % 2 for k in range(20)]
    for data in (TakesItems(items), array):
        pixels = given(data, test_split=0.5, size=8, **options).test.pixels[0]
        assert torch.equal(pixels.permute(1, 2, 0), torch.from_numpy(np.array(by_hand)))
    padded = given(array, test_split=0.5, size=12, fit="pad").test.pixels[0]
    assert torch.equal(padded[:, 2:10].permute(1, 2, 0), torch.from_numpy(np.array(wide)))
    assert not padded[:, :2].any()


class TakesItems(torch.utils.data.Dataset[tuple[Any, Any]]):
    def __init__(self, items: list[tuple[Any, Any]]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        return self.items[i]


class Pickled:
    def __reduce__(self) -> tuple[Any, tuple[str, ...]]:
        return (exec, ("raise SystemExit('this code was run')",))


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda at: write_npz(at, x=X, y=np.array([Pickled()] * len(X), object)), "holds pickled Python objects"),
        (lambda at: write_npz(at, pixels_of_it=X, y=Y), "has the keys pixels_of_it, y; expected images and labels"),
        (lambda at: (at / "a.npz").write_text("<html>"), "is a web page and not the file"),
        (lambda at: (at / "a.npz").write_bytes(b"12"), "is no .npz file"),
        (lambda at: {"name": "npz", "train": str(at / "no.npz")}, "there is no file .*no.npz; expected an .npz"),
        (lambda at: write_npz(at, x=X) | {"train": [str(at / "a.npz")]}, "npz needs data.train=FILE.npz, one file"),
        (lambda at: (at / "a.csv").write_text("file,sort\na.png,cat\n"), "columns file, sort; expected the header path,label"),
        (lambda at: (at / "a.csv").write_text("path,label\nno.png,cat\n"), "1 of 1 pictures .* are not there, such"),
        (lambda at: (at / "a.csv").write_text("path,label\nno.png,\n"), "line 2: got 'no.png' and no label, expected both"),
        (lambda at: (at / "a.csv").write_text('path,label\n"a\nb,cat\n'), r"line 3: got 'a\\nb,cat' and no label, expected both"),
        (lambda at: (at / "a.csv").write_text("path,label\na,cat\na,dog\n"), "line 3: 'a' has two labels, 'cat' and 'dog'"),
        (lambda at: (at / "a.csv").write_text(""), "has the columns none"),
        (lambda at: tar_of(at / "a.tar", [{"png": b"1"}]), "part/0000 has the files png and no label; expected .cls"),
        (lambda at: tar_of(at / "a.tar", [{"cls": b"1"}]), "there are no pictures in .*; expected pairs"),
        (lambda at: tar_of(at / "a.tar", [{"v2.png": b"1", "cls": b"1"}]), "has the picture 'v2.png', and in a shard"),
        (
            lambda at: tar_of(at / "a.tar", [{"png": b"1", "cls": b"1", "1.png": b"1", "1.cls": b"1"}]),
            "has the picture '1.png', and in a shard",
        ),
        (lambda at: tar_of(at / "a.tar", [{"png": b"1", "json": b"{"}]), "json is no JSON"),
        (lambda at: (at / "a.tar").write_bytes(b"1" * 2000), "is no whole tar file"),
        (lambda at: {"name": "webdataset", "train": str(at / "*.tar")}, r"there is no file .*\*.tar; expected data.train=FILE"),
        (lambda at: {"name": "webdataset", "train": "s-{0..9999999}.tar"}, "names 10,000,000 shards, expected 1 to 100,000"),
        (lambda at: os.mkfifo(at / "a.tar") or {"name": "webdataset", "train": f"{at}/*.tar"}, "no plain file but a pipe"),
        (lambda at: np.savez(at / "a.npz"), "has the keys none; expected images and labels"),
        (lambda at: write_npz(at, x=X.flatten(1), y=Y), r"images of shape \(80, 64\) with 80 labels; expected"),
        (lambda at: {"name": "csv"}, "csv needs both data.train=FILES and data.test=FILES"),
    ],
)  # fmt: skip
def test_files_that_are_not_what_they_should_be_are_one_line(tmp_path: Path, write: Any, words: str) -> None:
    made = write(tmp_path)
    if not isinstance(made, dict):
        (file,) = tmp_path.iterdir()
        made = {"name": {"npz": "npz", "csv": "csv", "tar": "webdataset"}[file.suffix[1:]], "train": str(file)}
    split = {} if "needs both" in words else {"test_split": 0.25}
    with pytest.raises(MmardError, match=words) as e:
        load(**made, **split)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"test_split": 1.5}, "'test_split' is 1.5: expected a number below 1"),
        ({"test_split": 0.99}, "leaves no training image of class"),
        ({"test_split": 0.2, "resize": 9}, "data.resize and data.fit are ways to a data.size, which is not given"),
        ({"test_split": 0.2, "size": 8, "resize": 4}, "data.resize=4 with data.size=8"),
        ({"test_split": 0.2, "size": 8, "resize": 9, "fit": "pad"}, "expected data.fit=crop"),
        ({"test_split": 0.2, "root": "x"}, "data.root means nothing for data.name=python"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(options: dict[str, Any], words: str) -> None:
    with pytest.raises(MmardError, match=words):
        given((X, Y), **options)


def test_a_test_split_without_labels_gives_way_and_a_transform_of_the_set_is_left_out() -> None:
    """Benchmarks publish test pictures with labels of -1, and those of the validation split are the ones to test on."""
    import datasets

    kind = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["ant", "bee"]))

    def split(labels: list[int]) -> Any:
        pictures = [Items(picture)[k][0] for k in range(len(labels))]
        return datasets.Dataset.from_dict({"image": pictures, "label": labels}, features=kind)

    train, bare = split([0, 1] * 20), split([-1] * 6)
    with pytest.warns(
        UserWarning, match="the labels of the split test are all -1, and it is left out: validation is taken"
    ):
        assert len(given({"train": train, "validation": split([0, 1]), "test": bare}).test) == 2
    with pytest.warns(UserWarning, match="no test images are left"):
        assert len(given({"train": train, "test": bare}, test_split=0.25).test) == 10
    train.set_transform(lambda rows: {"image": ["changed"] * len(rows["image"]), "label": rows["label"]})
    with pytest.warns(UserWarning, match="the data set's own transform is left out"):
        assert len(given(train, test_split=0.25).test) == 10


def test_further_pictures_of_a_sample_are_passed_over(tmp_path: Path) -> None:
    """A mask, or what a Mac leaves beside a file, is no picture with a dot in its name."""
    samples = [{"png": encoded(k), "cls": str(k % 2).encode(), "seg.png": encoded(k)} for k in range(8)]
    tar_of(tmp_path / "a.tar", samples)
    data = load("webdataset", train=str(tmp_path / "a.tar"), test_split=0.25)
    assert len(data.train) + len(data.held_out) + len(data.test) == 8


def test_a_set_with_an_attribute_features_is_no_table() -> None:
    data = TensorDataset(X, Y)
    data.features = X  # type: ignore[attr-defined]
    assert len(given({"train": data, "test": data}).test) == len(X)


@pytest.mark.parametrize("write", [by_npz, by_csv, by_tar, by_parquet])
def test_test_images_that_are_training_images_are_told(tmp_path: Path, write: Any) -> None:
    """Twice the same file; and parts that share no image are not told of."""
    options = write(tmp_path, words=False)
    with pytest.warns(UserWarning, match=r"(\d+) of \1 test images are training images too"):
        load(**{**options, "test": options["train"]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(**options, test_split=0.25)


def test_pixels_of_another_byte_order_are_the_same() -> None:
    x = np.random.default_rng(0).random((20, 1, 8, 8))
    found, plain = (given((kind, [0, 1] * 10), test_split=0.5) for kind in (x.astype(">f8"), x))
    assert torch.equal(pixels_of(found), pixels_of(plain))
    with pytest.raises(MmardError, match=r"pixels are int64, expected uint8.*they fit: .astype\(numpy.uint8\)"):
        given(((x * 255).astype(np.int64), [0, 1] * 10), test_split=0.5)
