"""Sources of images: the embedded digits, parquet files, image folders, and the Hugging Face hub."""

import glob
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mmard.data.columns import image_column, label_column, labels_of
from mmard.data.encoded import COLOURABLE, CURE, EncodedImages, Notes
from mmard.data.folders import folder_splits
from mmard.data.images import DataSet, Images, ImageSet, some, split, stratified
from mmard.data.labels import Known, must_be_classes, renumbered
from mmard.data.streaming import THREADS, Streamed
from mmard.utils.errors import MmardError, first_line
from mmard.utils.safe_open import must_be_itself
from mmard.utils.validation import Count, Section

TEST_SPLITS = ("test", "validation", "valid", "val")
MOST_BROKEN = 0.01  # share of the images that data.on_error=skip may leave out


class FileOptions(Section):
    """The options for reading the files of a data set.

    Attributes:
        name: one of `SOURCES`.
        train, test: parquet files (paths, globs or lists); a path that is there is no glob.
        root: of an image folder.
        label: the label column, where there are several.
        size: make every image size×size (shorter side resized, then the centre); needed where sizes differ.
        channels: 1 or 3 of all images; None: 1 where all are grey, else 3.
        stream: the training images stay on disk and are decoded batch by batch; the held-out and the test images are
            in memory all the same, and so are the digits.
        on_error: ``"skip"`` leaves out images that cannot be decoded, up to one in a hundred; ``"stop"`` names the first.
    """

    name: str = "digits"
    train: str | list[str] | None = None
    test: str | list[str] | None = None
    root: str | None = None
    label: str | None = None
    size: Count | None = None
    channels: Literal[1, 3] | None = None
    stream: bool = False
    on_error: Literal["stop", "skip"] = "stop"

    def given(self) -> list[str]:
        """Name the options that differ from their defaults."""
        return list(self.model_dump(exclude_defaults=True, exclude={"name"}))


def load(
    name: str,
    *,
    held_out: float = 0.1,
    limit: int | None = None,
    test_limit: int | None = None,
    seed: int = 0,
    model: Known | None = None,
    **files: Any,
) -> DataSet:
    """Load a data set and cut its held-out split.

    Args:
        name: one of `SOURCES`.
        held_out: share of the training set to choose checkpoints and settings on.
        limit, test_limit: keep about so many images of each, every class in proportion.
        seed: of the splits.
        model: the model that the images are for; they take its order of the classes, and three channels where it takes three.
        **files: as in `FileOptions`.

    Raises:
        MmardError: for data that are not there or not what they should be, for options without meaning for them, and, before an
            image is decoded, for a model of other classes or channels.
    """
    options, limits = FileOptions(name=name, **files), (limit, test_limit)
    must_be_used(name, [key for key in options.given() if key != "stream"])
    opened = _open(options, model)
    if isinstance(opened, tuple):
        whole, tested = (some(part, n, seed) for part, n in zip(opened, limits, strict=True))
        return split(name, whole, tested, held_out=held_out, seed=seed)
    parts = _parts(opened, name, options, limits, seed, model)
    found, broken = (parts, []) if options.on_error == "stop" else _without_broken(parts)
    train, test = _of_one_shape(found, options.channels, model)
    if model is not None:
        model.must_fit(len(train.classes), train.channels)  # the first of each is decoded, the rest is not yet
    learnt: ImageSet = train if options.stream else train.in_memory()
    return replace(split(name, learnt, test.in_memory(), held_out=held_out, seed=seed), skipped=tuple(broken))


@dataclass(frozen=True, eq=False)
class _Table:
    """One split as it was read, before labels are numbered.

    Attributes:
        rows, image: the table and its image column.
        labels, names: class numbers (N,), and the names of the classes where it has any.
        numbers: are there numbers in the file, and no words?
    """

    rows: Any
    image: str
    labels: Tensor
    names: tuple[str, ...]
    numbers: bool

    @staticmethod
    def of(rows: Any, label: str | None) -> "_Table":
        table, image = image_column(rows)
        column = label_column(table, label)
        labels, names = labels_of(table, column)
        return _Table(table, image, labels, names, not names or hasattr(table.features[column], "names"))


def _parts(
    splits: Any, name: str, options: FileOptions, limits: Sequence[int | None], seed: int, model: Known | None
) -> tuple[Streamed, Streamed]:
    """Make training and test images with the same classes in the same order; nothing is decoded yet."""
    test_name = next((s for s in TEST_SPLITS if s in splits), None)
    if "train" not in splits or test_name is None:
        raise MmardError(f"{name} has the splits {', '.join(splits)}; expected train and {' or '.join(TEST_SPLITS)}")
    train, test = (_Table.of(splits[part], options.label) for part in ("train", test_name))
    names = _classes_of(train)
    if model is not None:
        model.must_fit(len(names))
    order, notes = model.order(names) if model else names, Notes()
    labels = [renumbered(train.labels, names, order), _as_in_training(test, train, names, order)]
    parts = []
    for table, y, limit in zip((train, test), labels, limits, strict=True):
        index = torch.arange(len(y)) if limit is None or limit >= len(y) else stratified(y, limit, seed)[0]
        if len(index) == 0:
            raise MmardError("the data set is empty: 0 images")
        pictures = EncodedImages(table.rows, table.image, options.size, notes=notes)
        parts.append(Streamed(pictures, y[index], order, index))
    return parts[0], parts[1]


def _classes_of(train: _Table) -> tuple[str, ...]:
    """Name the training set's classes, each of which has an image; by numbers where there are no names."""
    if len(train.labels) == 0:
        raise MmardError("the data set is empty: 0 images")
    names = train.names or tuple(str(k) for k in range(int(train.labels.max()) + 1))
    must_be_classes(train.labels, names)
    counts = torch.bincount(train.labels, minlength=len(names))
    if len(empty := (counts == 0).nonzero()):
        first = int(empty[0])
        from_one = len(empty) == 1 and first == 0 and not train.names
        cure = (
            "labels begin with 1: subtract 1 from all of them"
            if from_one
            else "leave the class out, and number the others anew"
        )
        raise MmardError(f"the training set has no image of class {names[first]!r}; {cure}")
    return names


def _as_in_training(test: _Table, train: _Table, names: tuple[str, ...], order: tuple[str, ...]) -> Tensor:
    """Number the test labels as the training labels are: by name where both have names."""
    if test.numbers != train.numbers:
        kinds = {True: "numbers", False: "words"}
        raise MmardError(
            f"training labels are {kinds[train.numbers]} and test labels {kinds[test.numbers]}; expected the same of both"
        )
    own = test.names if train.names and test.names else names
    if unknown := [name for name in own if name not in names]:
        raise MmardError(f"the test set has the class {unknown[0]!r}, the training set has not: {', '.join(names[:8])}")
    if len(test.labels) == 0:
        raise MmardError("the data set is empty: 0 images of the test split")
    must_be_classes(test.labels, own, "test labels")
    y = renumbered(test.labels, own, order)
    if len(missing := (torch.bincount(y, minlength=len(order)) == 0).nonzero()):
        count = f"{len(missing)} of {len(order)} classes, such as" if len(missing) > 1 else "the class"
        warnings.warn(f"the test set has no image of {count} {order[int(missing[0])]!r}", stacklevel=2)
    return y


def _without_broken(parts: tuple[Streamed, Streamed]) -> tuple[tuple[Streamed, Streamed], list[str]]:
    """Select the images that can be decoded; returns also the faults of the others. All are decoded."""
    kept, told = list[Streamed](), list[str]()
    for part in parts:
        faults = part.pictures.broken(part.index.tolist(), THREADS)
        first = next(iter(faults.values()), "").partition("; ")[0]
        if len(faults) > MOST_BROKEN * len(part):
            raise MmardError(
                f"{len(faults):,} of {len(part):,} images cannot be decoded, more than {MOST_BROKEN:.0%}; mend the data ({first})"
            )
        if faults:
            warnings.warn(
                f"{len(faults):,} of {len(part):,} images are left out (data.on_error=skip): {first}", stacklevel=2
            )
        whole = torch.tensor([number not in faults for number in part.index.tolist()])
        kept.append(part.take(whole.nonzero().squeeze(1)))
        told += faults.values()
    return (kept[0], kept[1]), told


def _of_one_shape(
    parts: tuple[Streamed, Streamed], channels: int | None, model: Known | None
) -> tuple[Streamed, Streamed]:
    """Give both parts images of one shape, or raise MmardError; the first of each is decoded."""
    if channels is not None:
        parts[0].pictures.notes.leave_out(COLOURABLE)  # whoever asks for three channels knows
    elif model is not None and model.channels == 3:
        channels = 3
    else:
        channels = 1 if all(p.pictures.all_grey(p.index.tolist()) for p in parts) else 3
    train, test = (replace(p, pictures=p.pictures.but(int(p.index[0]), channels)) for p in parts)
    if train.pictures.shape != test.pictures.shape:
        shapes = ["{1}×{0}".format(*part.pictures.shape) for part in (train, test)]
        raise MmardError(f"training images are {shapes[0]} and test images {shapes[1]}; {CURE}")
    return train, test


def _digits(_options: FileOptions, model: Known | None) -> tuple[Images, Images]:
    from sklearn.datasets import load_digits

    bunch, names = load_digits(), tuple(map(str, range(10)))
    order = model.order(names) if model else names
    labels = renumbered(torch.from_numpy(bunch.target), names, order)
    whole = Images.of(np.round(bunch.images * (255 / 16)).astype(np.uint8)[:, None], labels, order)
    test, train = stratified(whole.labels, 360, seed=0)
    return whole.take(train), whole.take(test)


def _parquet(options: FileOptions, _model: Known | None) -> Mapping[str, Any]:
    if not options.train or not options.test:
        raise MmardError("parquet needs both data.train=FILES and data.test=FILES")
    files = {"train": _files(options.train, "train"), "test": _files(options.test, "test")}
    # Each by itself: together, the columns of one would be read as if they were those of the other.
    return {part: _datasets().load_dataset("parquet", data_files={part: at}, split=part) for part, at in files.items()}


def _image_folder(options: FileOptions, _model: Known | None) -> Mapping[str, Any]:
    if not options.root:
        raise MmardError("imagefolder needs data.root=FOLDER with train/ and test/ in it")
    return folder_splits(options.root)


def _hub(options: FileOptions, _model: Known | None) -> Mapping[str, Any]:
    if "/" not in options.name:
        raise MmardError(f"unknown data set {options.name!r}; known: {', '.join(SOURCES)}")
    return _datasets().load_dataset(options.name)  # type: ignore[no-any-return]


def _datasets() -> Any:
    import datasets

    datasets.disable_progress_bars()
    return datasets


def _open(options: FileOptions, model: Known | None) -> Mapping[str, Any] | tuple[Images, Images]:
    """Open a data set: its splits as Hugging Face data sets, or training and test images in memory."""
    name = options.name
    source = SOURCES.get(name, SOURCES[HUB])
    try:
        if source.options:
            import PIL  # noqa: F401

            _datasets()
        return source.open(options, model)
    except ImportError as e:
        raise MmardError(
            f"data set {name!r} needs one more package: pip install 'mmard[data]' (without it: digits)"
        ) from e
    except MmardError:
        raise
    except Exception as e:  # the library has a dozen kinds of failure; each means that there is no such data here
        raise MmardError(f"cannot load data set {name!r}: {first_line(e)}") from e


def _files(given: str | Sequence[str], key: str) -> list[str]:
    """Make patterns for the datasets library; a path that exists stands for itself, whatever its letters mean in a pattern."""
    patterns = []
    for one in [given] if isinstance(given, str) else given:
        path = Path(one).expanduser()
        if path.is_dir():
            raise MmardError(f"data.{key}={one} is a folder; give its files: 'data.{key}={one}/*.parquet'")
        must_be_itself(path)
        patterns.append(glob.escape(str(path.absolute())) if path.exists() else one)
    return patterns


@dataclass(frozen=True)
class Source:
    """A kind of data sets.

    Attributes:
        line: what `mmard ls data` says of it.
        open: from the options and the model that the images are for, to its splits as Hugging Face data sets, or to training and
            test images in memory.
        options: those of `FileOptions` that mean something for it.
        places: those of them that say where the files lie; somebody else's settings need the user's word for these.
    """

    line: str
    open: Callable[[FileOptions, Known | None], Mapping[str, Any] | tuple[Images, Images]]
    options: frozenset[str] = frozenset()
    places: tuple[str, ...] = ()


HUB = "OWNER/NAME"
_FILES = frozenset({"size", "channels", "stream", "on_error"})
SOURCES = {
    "digits": Source("1,797 handwritten digits, 8×8 grey, 10 classes, from scikit-learn; nothing to download", _digits),
    "parquet": Source(
        "parquet files with an image and a label column (data.train=..., data.test=...)",
        _parquet, _FILES | {"train", "test", "label"}, ("train", "test"),
    ),
    "imagefolder": Source(
        "folders of images, one folder a class, in train/ and test/ (data.root=...)", _image_folder, _FILES | {"root"}, ("root",)
    ),
    HUB: Source("any image data set of the Hugging Face hub, such as uoft-cs/cifar10", _hub, _FILES | {"label"}),
}  # fmt: skip


def unused(name: str, keys: Sequence[str]) -> list[str]:
    """Find the settings among ``keys`` (such as ``"size"``) that have no meaning for the data set ``name``."""
    used = SOURCES.get(name, SOURCES[HUB]).options
    return [key for key in keys if key not in used and any(key in other.options for other in SOURCES.values())]


def must_be_used(name: str, keys: Sequence[str]) -> None:
    """Raise MmardError for settings that were given and have no meaning for the data set."""
    if ignored := unused(name, keys):
        takers = [kind for kind, source in SOURCES.items() if ignored[0] in source.options]
        raise MmardError(
            f"data.{ignored[0]} means nothing for data.name={name}, only for {', '.join(takers)}; leave it out, or name other data"
        )
