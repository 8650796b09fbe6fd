"""Pictures of every mode and kind of file: scaled by what they are, or refused by name; none is lost without a word."""

import io
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmard import MmardError
from mmard.api.build import resolve
from mmard.api.settings import read_settings
from mmard.api.train import train
from mmard.data.labels import Known
from mmard.data.sources import load

datasets = pytest.importorskip("datasets")
Image = pytest.importorskip("PIL.Image")

LEVELS = np.array([[0, 1, 2, 128], [254, 255, 37, 200]], np.uint8)


def grey(levels: np.ndarray = LEVELS) -> Any:
    return Image.fromarray(levels)


def folder(root: Path, make: Callable[[], Any], ending: str = "png", classes: tuple[str, ...] = ("a", "b")) -> str:
    """Three pictures of each class for training, one for testing, whose file is another one of the same picture."""
    for part, count in (("train", 3), ("test", 1)):
        for name in classes:
            (root / part / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                make().save(at := root / part / name / f"{i}.{ending}")
                if part == "test":
                    at.write_bytes(at.read_bytes() + b"\0")  # after its end
    return str(root)


def pixels(root: str, **options: Any) -> torch.Tensor:
    """(C, H, W) of the test images, which are all the same; streamed training images are the same too."""
    both = [load("imagefolder", root=root, held_out=0.34, stream=stream, **options) for stream in (False, True)]
    for data in both:
        assert all((image == both[0].test.pixels[0]).all() for image in data.train.in_memory().pixels)
    return both[0].test.pixels[0]


def laid_on_white(colour: int, alpha: np.ndarray) -> np.ndarray:
    return np.round(255 - (255 - colour) * (alpha / 255)).astype(np.uint8)


@pytest.mark.parametrize(
    ("make", "ending", "said", "expected"),
    [
        (lambda: Image.fromarray(LEVELS.astype(np.uint16) * 257), "png", "16-bit images are scaled", LEVELS),
        (lambda: Image.fromarray(LEVELS.astype(np.uint16) * 257), "tiff", "16-bit images are scaled", LEVELS),
        (lambda: Image.fromarray(LEVELS.astype(np.float32) / 255), "tiff", "float images are scaled", LEVELS),
        (lambda: grey((LEVELS > 100).astype(np.uint8) * 255).convert("1"), "png", None, (LEVELS > 100) * 255),
        (
            lambda: Image.merge("LA", (Image.new("L", (4, 2), 0), grey())),
            "png",
            "laid on white",
            laid_on_white(0, LEVELS),
        ),
        (lambda: Image.merge("LA", (grey(), Image.new("L", (4, 2), 255))), "png", None, LEVELS),
        (
            lambda: grey().quantize(8).convert("L").convert("P"),
            "png",
            None,
            np.asarray(grey().quantize(8).convert("L")),
        ),
        (grey, "bmp", None, LEVELS),
    ],
)
def test_grey_pictures_have_one_channel_and_their_own_levels(
    make: Callable[[], Any], ending: str, said: str | None, expected: np.ndarray, tmp_path: Path
) -> None:
    root = folder(tmp_path, make, ending)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load("imagefolder", root=root, held_out=0.34)
    told = [str(w.message) for w in caught]
    assert (len(told) == 0) if said is None else (len(told) == 1 and said in told[0])
    got = pixels(root)
    assert got.shape == (1, 2, 4)
    assert np.abs(got[0].numpy().astype(int) - expected).max() <= (1 if said == "laid on white" else 0)


def test_colours_under_alpha_are_laid_on_white(tmp_path: Path) -> None:
    half = Image.merge("RGBA", [Image.new("L", (4, 2), level) for level in (200, 0, 100, 128)])
    with pytest.warns(UserWarning, match="transparent images are laid on white"):
        got = pixels(folder(tmp_path, lambda: half))
    assert [int(c) for c in got[:, 0, 0]] == pytest.approx([227, 127, 177], abs=1)


def test_a_palette_with_a_transparent_colour_is_laid_on_white(tmp_path: Path) -> None:
    root = folder(tmp_path, lambda: Image.new("P", (4, 2), 0))
    for path in Path(root).rglob("*.png"):
        picture = Image.new("P", (4, 2), 0)
        picture.putpalette([255, 0, 0, 0, 255, 0])
        picture.putpixel((1, 0), 1)
        picture.save(path, transparency=0)
    with pytest.warns(UserWarning, match="laid on white"):
        got = pixels(root)
    assert got[:, 0, 0].tolist() == [255, 255, 255]
    assert got[:, 0, 1].tolist() == [0, 255, 0]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Image.fromarray(LEVELS.astype(np.float32)), r"its float pixels lie in \[0, 255\], expected \[0, 1\]"),
        (lambda: Image.fromarray(LEVELS.astype(np.float32) * np.nan), "its float pixels lie in .nan"),
        (
            lambda: Image.fromarray(LEVELS.astype(np.int32)),
            "pixels of the mode 'I' have no known range; save them as 8-bit",
        ),
    ],
)
def test_pixels_without_a_known_range_are_refused_by_name(make: Callable[[], Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(MmardError, match=words):
        load("imagefolder", root=folder(tmp_path, make, "tiff"), held_out=0.34)


def test_grey_among_coloured_has_three_channels_and_is_said(tmp_path: Path) -> None:
    root = folder(tmp_path, lambda: Image.new("RGB", (4, 2), (9, 8, 7)))
    grey().save(tmp_path / "train/a/0.png")
    with pytest.warns(UserWarning, match="grey images become three equal channels, which an adversary may colour"):
        data = load("imagefolder", root=root, held_out=0.34)
    assert data.train.channels == data.test.channels == 3
    assert load("imagefolder", root=root, held_out=0.34, channels=1).test.pixels.shape == (2, 1, 2, 4)


def test_channels_are_what_is_asked_for_or_what_the_model_takes(tmp_path: Path) -> None:
    root = folder(tmp_path, grey)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asked = load("imagefolder", root=root, held_out=0.34, channels=3)
    with pytest.warns(UserWarning, match="which an adversary may colour"):
        taken = load("imagefolder", root=root, held_out=0.34, model=Known("an old run", channels=3))
    for data in (asked, taken):
        assert (data.test.pixels == torch.from_numpy(LEVELS)).all()
        assert data.test.channels == 3
    assert load("imagefolder", root=root, held_out=0.34, model=Known("new", channels=1)).test.channels == 1


def test_of_several_frames_the_first_is_taken_and_said(tmp_path: Path) -> None:
    root = folder(tmp_path, grey, "gif")
    for path in Path(root).rglob("*.gif"):
        grey().save(path, save_all=True, append_images=[grey(255 - LEVELS)])
    with pytest.warns(UserWarning, match="several frames, of which the first is taken"):
        assert torch.equal(pixels(root)[0], torch.from_numpy(LEVELS))


def test_brackets_stars_and_spaces_in_a_path_are_letters(tmp_path: Path) -> None:
    root = folder(tmp_path / "my [v2] {a,b} *données* ?", grey)
    data = load("imagefolder", root=root, held_out=0.34)
    assert (len(data.train), len(data.test)) == (4, 2)
    rows = {"image": [grey()] * 6, "label": [0, 1] * 3}
    for part in ("train[1]", "te*st"):
        datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image()).to_parquet(f"{root}/{part}.parquet")
    data = load("parquet", train=f"{root}/train[1].parquet", test=[f"{root}/te*st.parquet"], held_out=0.34)
    assert len(data.test) == 6
    pattern = load(
        "parquet", train=str(tmp_path / "my*/train*.parquet"), test=str(tmp_path / "my*/te*.parquet"), held_out=0.34
    )
    assert len(pattern.test) == 6


def test_folders_with_numbers_are_in_the_order_of_the_numbers(tmp_path: Path) -> None:
    names = tuple(str(k) for k in range(12))
    for part, count in (("train", 3), ("test", 1)):
        for name in names:
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                Image.new("L", (2, 2), int(name)).save(tmp_path / part / name / f"{i}.png")
    data = load("imagefolder", root=str(tmp_path), held_out=0.34)
    assert data.train.classes == names
    assert torch.equal(data.test.pixels[:, 0, 0, 0].long(), data.test.labels)
    old = tuple(sorted(names))  # of a run from before numbers counted
    with pytest.warns(UserWarning, match="in another order"):
        again = load("imagefolder", root=str(tmp_path), held_out=0.34, model=Known("the run", old))
    for part in (again.train, again.held_out, again.test):
        shown = part.in_memory().pixels[:, 0, 0, 0].tolist()
        assert [int(part.classes[k]) for k in part.labels] == shown
    assert again.train.classes == old


def test_rows_are_in_the_order_of_the_paths_as_the_library_has_them(tmp_path: Path) -> None:
    root = folder(tmp_path, grey, classes=("a", "a-b", "a b", "B", "é"))
    theirs = datasets.load_dataset("imagefolder", data_dir=root, drop_labels=False)["train"]
    paths = [file["path"] for file in theirs.cast_column("image", datasets.Image(decode=False))["image"]]
    data = load("imagefolder", root=root, held_out=0.34, stream=True).train
    ours = [file["path"] for file in data.pictures.encoded["image"]]  # type: ignore[attr-defined]
    assert ours == paths
    assert data.classes == tuple(theirs.features["label"].names)


def test_what_is_no_picture_is_left_out_and_what_may_be_twice_is_said(tmp_path: Path) -> None:
    root = folder(tmp_path, grey)
    for name in (".DS_Store", "Thumbs.db", "._0.png"):
        (tmp_path / "train/a" / name).write_bytes(b"x")
    (tmp_path / "train/.cache/x").mkdir(parents=True)
    grey().save(tmp_path / "train/.cache/x/0.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load("imagefolder", root=root, held_out=0.34).train) == 4
    (tmp_path / "train/a/readme.txt").write_text("x")
    grey().save(tmp_path / "train/b/2.bmp")
    with pytest.warns(UserWarning, match="2.bmp and 2.png") as caught:
        load("imagefolder", root=root, held_out=0.34)
    told = " ".join(str(w.message) for w in caught)
    assert "1 files that are no pictures by their names are left out, such as " in told
    assert "readme.txt" in told


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda at: (at / "train/c").mkdir(), "no image of class 'c', which is a folder of the train part"),
        (lambda at: (at / "test/c").mkdir(), "no image of class 'c', which is a folder of the test part"),
        (lambda at: grey().save(at / "train/x.png"), "lies in no class folder"),
        (lambda at: (at / "test").rename(at / "other"), "expected train/ and test/"),
        (
            lambda at: (
                [(at / f"train/{c}").rename(at / f"train/in-{c}") for c in "ab"]
                + [(at / f"train/{c}/x").mkdir(parents=True) or grey().save(at / f"train/{c}/x/0.png") for c in "ab"]
            ),
            "has folders 'x' in b/ and in a/, and the innermost folder is the class",
        ),
    ],
)
def test_folders_that_do_not_go_together_are_one_line(
    change: Callable[[Path], Any], words: str, tmp_path: Path
) -> None:
    root = folder(tmp_path, grey)
    change(tmp_path)
    with pytest.raises(MmardError, match=words):
        load("imagefolder", root=root, held_out=0.34)


def test_parts_in_capitals_are_parts(tmp_path: Path) -> None:
    """`Train` and `Test` were classes, and after the advice to cut test images off the published ones were trained on."""
    root = folder(tmp_path, grey)
    small = load("imagefolder", root=root, held_out=0.34)
    for name in ("train", "test"):
        (tmp_path / name).rename(tmp_path / name.capitalize())
    large = load("imagefolder", root=root, held_out=0.34)
    assert [len(part) for part in (large.train, large.test)] == [len(part) for part in (small.train, small.test)]
    (tmp_path / "Train").rename(tmp_path / "all")
    (tmp_path / "all/a").rename(tmp_path / "all/Train")  # a class of that name, among others
    assert load("imagefolder", root=str(tmp_path / "all"), held_out=0.34, test_split=0.25).source == ("Train", "b")


def test_a_part_is_one_folder_or_several_that_differ_in_numbers(tmp_path: Path) -> None:
    """`train_masks/` was trained on as images, and `test_old/` was judged on, without a line."""
    root = folder(tmp_path, grey)
    plain = load("imagefolder", root=root, held_out=0.34)
    for name in ("train_masks", "test (copy)", "eval_old"):
        shutil.copytree(tmp_path / "train", tmp_path / name)
    with pytest.warns(UserWarning, match="train_masks in .* are left out: the train part is train"):
        same = load("imagefolder", root=root, held_out=0.34)
    assert [len(same.train), len(same.test)] == [len(plain.train), len(plain.test)]
    shutil.copytree(tmp_path / "train", tmp_path / "train_2")
    with pytest.warns(
        UserWarning, match="train_2, train_masks in .* are left out"
    ):  # it may be the same in another size
        more = load("imagefolder", root=root, held_out=0.34)
    assert len(more.train) == len(plain.train)
    shutil.rmtree(tmp_path / "train_2")
    (tmp_path / "train").rename(tmp_path / "my_train")
    with pytest.raises(MmardError, match="several folders for the train part: my_train, train_masks; expected one"):
        load("imagefolder", root=root, held_out=0.34)
    shutil.rmtree(tmp_path / "train_masks")
    (tmp_path / "my_train").rename(tmp_path / "train.X1")
    (tmp_path / "train.X2/b").mkdir(parents=True)
    (tmp_path / "train.X1/b/0.png").rename(tmp_path / "train.X2/b/9.png")
    shards = load("imagefolder", root=root, held_out=0.34)
    assert len(shards.train) == len(plain.train)


def test_copies_among_the_test_pictures_are_told(tmp_path: Path) -> None:
    from PIL import Image

    root = folder(tmp_path, grey)
    copies = sorted((tmp_path / "train").glob("*/*.png"))
    for number, picture in enumerate(copies):
        noise = np.random.default_rng(number).integers(0, 256, (2, 4), dtype=np.uint8)
        Image.fromarray(noise).save(picture)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load("imagefolder", root=root, held_out=0.34)
    shutil.copy(copies[0], tmp_path / "test/a/other name.png")
    with pytest.warns(UserWarning, match="1 of 3 test images are training images too"):
        load("imagefolder", root=root, held_out=0.34)


def test_a_class_without_test_images_is_said(tmp_path: Path) -> None:
    root = folder(tmp_path, grey)
    (tmp_path / "test/b/0.png").rename(tmp_path / "test/a/1.png")
    with pytest.warns(UserWarning, match="the test set has no image of the class 'b'"):
        load("imagefolder", root=root, held_out=0.34)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", r"it is empty \(0 bytes\)"), (b"no picture", "it is no picture"), ("half", "cannot be decoded")],
)
def test_a_broken_file_is_named(content: Any, words: str, tmp_path: Path) -> None:
    root = folder(tmp_path, lambda: grey(np.random.default_rng(0).integers(0, 256, (40, 40), np.uint8)))
    path = tmp_path / "train/b/1.png"
    path.write_bytes(path.read_bytes()[:300] if content == "half" else content)
    with pytest.raises(MmardError, match=words) as caught:
        load("imagefolder", root=root, held_out=0.34)
    assert "train/b/1.png" in str(caught.value)
    assert "data.on_error=skip" in str(caught.value)


def many(root: Path, broken: int) -> str:
    for part, count in (("train", 100), ("test", 20)):
        for k, name in enumerate(("a", "b")):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (8, 8), (i, 200 * k, 0)).save(root / part / name / f"{i:03}.png")
    for i in range(broken):
        (root / f"train/a/{50 + i:03}.png").write_bytes(b"x")
    return str(root)


def test_broken_images_are_skipped_with_a_count_and_a_list(tmp_path: Path) -> None:
    root = many(tmp_path / "d", broken=2)
    with pytest.warns(UserWarning, match=r"2 of 200 images are left out .data.on_error=skip.: image 50 .*050.png"):
        sets = [load("imagefolder", root=root, stream=stream, on_error="skip") for stream in (False, True)]
    for data in sets:
        assert len(data.train) + len(data.held_out) == 198
        assert not {50, 51} & {*data.train.index.tolist(), *data.held_out.index.tolist()}
        assert torch.equal(data.train.in_memory().pixels, sets[0].train.in_memory().pixels)
    run = train(
        method="standard", student="cnn-4-2", train__epochs=1, train__batch_size=64, out=str(tmp_path / "run"),
        data__name="imagefolder", data__root=root, data__on_error="skip", validation__steps=1,
    )  # fmt: skip
    listed = (run.path / "skipped.txt").read_text().splitlines()
    assert len(listed) == 2
    assert all(f"{50 + i:03}.png" in line for i, line in enumerate(listed))


@pytest.mark.parametrize("missing", [None, {"bytes": None, "path": None}], ids=["no picture", "no bytes"])
def test_a_row_without_a_picture_is_named_and_can_be_left_out(tmp_path: Path, missing: Any) -> None:
    import pandas as pd

    file = io.BytesIO()
    Image.new("L", (8, 8), 200).save(file, "png")
    pictures: list[Any] = [{"bytes": file.getvalue(), "path": None}] * 200
    pictures[7] = missing
    at = str(tmp_path / "a.parquet")
    pd.DataFrame({"image": pictures, "label": [k % 2 for k in range(200)]}).to_parquet(at)
    with pytest.raises(MmardError, match="the picture of row 7 of train is missing; put one there, or leave it out"):
        load("parquet", train=at, test=at)
    with pytest.warns(UserWarning, match="1 of 200 images are left out .*: the picture of row 7 of train is missing"):
        data = load("parquet", train=at, test=at, on_error="skip")
    assert (len(data.train) + len(data.held_out), len(data.test), len(data.skipped)) == (199, 199, 2)


def test_more_than_one_in_a_hundred_is_refused(tmp_path: Path) -> None:
    root = many(tmp_path, broken=3)
    with pytest.raises(MmardError, match="3 of 200 images cannot be decoded, more than 1%"):
        load("imagefolder", root=root, on_error="skip")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"name": "digits", "size": 32},
            "data.size means nothing for data.name=digits, only for parquet, imagefolder, npz",
        ),
        ({"name": "digits", "channels": 3}, "data.channels means nothing"),
        ({"name": "parquet", "root": "x"}, "data.root means nothing for data.name=parquet, only for imagefolder"),
        ({"name": "imagefolder", "label": "x"}, "data.label means nothing for data.name=imagefolder"),
        ({"name": "somebody/pictures", "train": "x"}, "data.train means nothing for data.name=somebody/pictures"),
    ],
)
def test_settings_that_the_data_do_not_look_at_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(MmardError, match=words):
        load(**options)
    settings = read_settings(None, {f"data.{key}": value for key, value in options.items()})
    with pytest.raises(MmardError, match=words):
        resolve(settings)


def test_other_data_forget_where_the_recipe_s_are() -> None:
    base = read_settings(None, {"data.name": "parquet", "data.train": "a", "data.test": "b", "data.size": 8})
    hub = read_settings(base, {"data.name": "uoft-cs/cifar10"}).data
    assert (hub.train, hub.test, hub.size) == (None, None, 8)
    digits = read_settings(base, {"data.name": "digits"})
    assert digits.data == read_settings(None).data
    again = read_settings(base, {"data.train": "c", "data.name": "parquet"}).data
    assert (again.train, again.test) == ("c", "b")
    with pytest.raises(MmardError, match=r"data\.root means nothing"):
        resolve(read_settings(base, {"data.name": "digits", "data.root": "x"}))


def png(level: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (4, 4), level).save(file, "png")
    return file.getvalue()


def table(path: Path, labels: list[Any], image: Callable[[bytes], Any] = lambda b: b, /, **more: list[Any]) -> str:
    """A parquet file as pandas writes it; a picture's level is 20 times the number of its label's place in order."""
    pandas = pytest.importorskip("pandas")
    words = sorted(set(map(str, labels)))
    pictures = [image(png(20 * words.index(str(y)))) for y in labels]
    pandas.DataFrame({"image": pictures, "label": labels, **more}).to_parquet(path)
    return str(path)


@pytest.mark.parametrize("image", [lambda b: b, lambda b: {"bytes": b, "path": None}, lambda b: {"bytes": b}])
@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([0, 1, 2], ("0", "1", "2")),
        ([0.0, 1.0, 2.0], ("0", "1", "2")),
        (["fox", "cat", "dog"], ("cat", "dog", "fox")),
        ([True, False], ("False", "True")),
    ],
)
def test_a_table_by_pandas_is_read(
    image: Callable[[bytes], Any], labels: list[Any], names: tuple[str, ...], tmp_path: Path
) -> None:
    train, test = table(tmp_path / "a.parquet", labels * 5, image), table(tmp_path / "b.parquet", labels[::-1], image)
    data = load("parquet", train=train, test=test, held_out=0.34)
    assert data.train.classes == data.test.classes == names
    for part in (data.train, data.held_out, data.test):
        assert torch.equal(part.in_memory().pixels[:, 0, 0, 0].long(), 20 * part.labels)
        assert part.channels == 1


def test_words_of_the_test_table_have_the_numbers_of_the_training_table(tmp_path: Path) -> None:
    train = table(tmp_path / "a.parquet", ["cat", "dog", "fox"] * 5)
    with pytest.warns(UserWarning, match="the test set has no image of the class 'cat'"):
        data = load("parquet", train=train, test=table(tmp_path / "b.parquet", ["fox", "dog"]), held_out=0.34)
    assert data.test.labels.tolist() == [2, 1]
    assert data.test.classes == ("cat", "dog", "fox")
    with pytest.raises(MmardError, match="the test set has the class 'emu', the training set has not: cat, dog, fox"):
        load("parquet", train=train, test=table(tmp_path / "c.parquet", ["emu", "cat"]), held_out=0.34)
    with pytest.raises(MmardError, match="training labels are words and test labels numbers"):
        load("parquet", train=train, test=table(tmp_path / "d.parquet", [0, 1, 2]), held_out=0.34)


def test_class_names_of_train_and_test_in_two_orders_agree(tmp_path: Path) -> None:
    files = []
    for part, names in (("train", ["cat", "dog", "fox"]), ("test", ["fox", "dog", "cat"])):
        features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=names))
        levels = {"cat": 0, "dog": 20, "fox": 40}
        rows = {"image": [{"bytes": png(levels[n]), "path": None} for n in names * 5], "label": [0, 1, 2] * 5}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / f"{part}.parquet")
        files.append(str(tmp_path / f"{part}.parquet"))
    data = load("parquet", train=files[0], test=files[1], held_out=0.34)
    assert data.test.classes == ("cat", "dog", "fox")
    assert torch.equal(data.test.pixels[:, 0, 0, 0].long(), 20 * data.test.labels)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (
            [[1, 0], [0, 1]],
            r"shape \(10, 2\) of 2 values a sample.*take \.argmax\(1\), or name another: data\.label=COLUMN",
        ),
        ([1, 2, 3], "no image of class '0'; labels begin with 1: subtract 1 from all of them"),
        ([0, 2], "no image of class '1'; leave the class out, and number the others anew"),
        ([0.5, 1.0], r"hold 0\.5, expected whole class numbers"),
        ([0.0, float("nan")], r"5 of 10 labels in the column 'label' are missing"),
        (["a", None], "5 of 10 labels in the column 'label' are missing"),
        ([-1, 0], "without labels"),
    ],
)
def test_labels_of_a_table_that_need_work_say_which(labels: list[Any], words: str, tmp_path: Path) -> None:
    file = table(tmp_path / "a.parquet", labels * 5)
    with pytest.raises(MmardError, match=words):
        load("parquet", train=file, test=file, held_out=0.34)


def test_of_several_columns_one_is_taken_and_said_or_asked_for(tmp_path: Path) -> None:
    file = table(tmp_path / "a.parquet", [0, 1] * 5, **{"labels": [1, 0] * 5, "thumbnail": [png(9)] * 10})
    with pytest.warns(UserWarning, match="several label columns .label, labels.: label is taken") as caught:
        data = load("parquet", train=file, test=file, held_out=0.34)
    told = " ".join(str(w.message) for w in caught)
    assert "several image columns (image, thumbnail): image is taken" in told
    assert torch.equal(data.test.pixels[:, 0, 0, 0].long(), 20 * data.test.labels)
    other = load("parquet", train=file, test=file, held_out=0.34, label="labels")
    assert torch.equal(other.test.labels, 1 - data.test.labels)


def test_an_address_in_a_table_is_not_fetched(tmp_path: Path) -> None:
    address = {"bytes": None, "path": "http://nowhere.invalid/x.png"}
    file = table(tmp_path / "a.parquet", [0, 1] * 5, lambda b: {"bytes": b, "path": None} if b == png(0) else address)
    with pytest.raises(MmardError, match="it is an address, and nothing is fetched for a picture"):
        load("parquet", train=file, test=file, held_out=0.34)
