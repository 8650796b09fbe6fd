"""Sources of images: the embedded digits, files of several kinds, the Hugging Face hub, and whatever a program gives."""

import glob
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from mmard.data.encoded import Fit
from mmard.data.folders import folder_splits
from mmard.data.given import Keys, parts_in, parts_of, table_of, tested_of
from mmard.data.images import DataSet, Images, ImageSet, split, stratified
from mmard.data.labels import Known
from mmard.data.listed import listed
from mmard.data.npz import NpzFile
from mmard.data.parts import Arrays, Part, Wanted, ready
from mmard.data.patterns import patterns_of
from mmard.data.shards import expanded, sharded
from mmard.utils.errors import MmardError, first_line
from mmard.utils.safe_open import must_be_itself
from mmard.utils.validation import Count, Fraction, Section, Seed


class FileOptions(Section):
    """The options for reading the files of a data set.

    Attributes:
        name: a source of ``mmard ls data``, a data set of the hub, or ``file.py:function``.
        train, test: parquet files (paths, globs or lists); a path that is there is no glob.
        root: the image folder.
        image, label: the image and the label column (or key), where there are several.
        size: make every image size×size (shorter side resized, then the centre); needed where sizes differ.
        resize: resize the shorter side to this first, such as 256 for ``size: 224``.
        fit: the way to ``size``: ``"crop"`` the centre, ``"stretch"`` the whole picture, or ``"pad"`` it with black.
        channels: 1 or 3 of all images; None: 1 where all are grey, else 3.
        stream: the training images stay on disk and are decoded batch by batch; the held-out and the test images are
            in memory all the same, and so are the digits.
        test_split, test_seed: cut this share of the training images off as test images, every class in proportion, where the data
            have none of their own. The seed is of this cut alone: ``seed`` leaves the test images what they are.
        on_error: ``"skip"`` leaves out images that cannot be decoded, up to one in a hundred; ``"stop"`` names the first.
        parameters: what a function of one's own is called with.
    """

    name: str = "digits"
    train: str | list[str] | None = None
    test: str | list[str] | None = None
    root: str | None = None
    image: str | None = None
    label: str | None = None
    size: Count | None = None
    resize: Count | None = None
    fit: Literal["crop", "stretch", "pad"] = "crop"
    channels: Literal[1, 3] | None = None
    stream: bool = False
    test_split: Fraction | None = None
    test_seed: Seed = 0
    on_error: Literal["stop", "skip"] = "stop"
    parameters: dict[str, Any] = Field(default_factory=dict)

    def given(self) -> list[str]:
        """Name the options that differ from their defaults."""
        return list(self.model_dump(exclude_defaults=True, exclude={"name"}))

    def shape(self) -> Fit:
        """Return the size of the images and the way to it.

        Raises:
            MmardError: for ``resize`` or ``fit`` without a size, and for a ``resize`` below it.
        """
        if self.size is None and (self.resize is not None or self.fit != "crop"):
            raise MmardError(
                "data.resize and data.fit are ways to a data.size, which is not given; give data.size=224, say"
            )
        if self.resize is not None and (self.fit != "crop" or self.resize < (self.size or 0)):
            raise MmardError(
                f"data.resize={self.resize} with data.size={self.size} and data.fit={self.fit}; expected data.fit=crop, and a "
                "data.resize not below data.size"
            )
        return Fit(self.size, self.resize, self.fit)

    def wanted(self, limits: tuple[int | None, int | None], seed: int, model: Known | None) -> Wanted:
        """Join what is wanted of the images."""
        return Wanted(
            name=self.name,
            test_split=self.test_split,
            test_seed=self.test_seed,
            limits=limits,
            seed=seed,
            fit=self.shape(),
            channels=self.channels,
            skip=self.on_error == "skip",
            model=model,
            adapts="channels" in source_of(self.name).options,
        )

    def keys(self) -> Keys:
        """Return the names of the columns, and the size."""
        return Keys(self.image, self.label, self.shape())


def load(
    name: str,
    *,
    held_out: float = 0.1,
    limit: int | None = None,
    test_limit: int | None = None,
    seed: int = 0,
    model: Known | None = None,
    given: object = None,
    trains: bool = True,
    **files: Any,
) -> DataSet:
    """Load a data set and cut its held-out split.

    Args:
        name: a source of ``mmard ls data``, a data set of the hub, or ``file.py:function``.
        held_out: share of the training set to choose checkpoints and settings on.
        limit, test_limit: keep about so many images of each, every class in proportion.
        seed: of the splits.
        model: the model that the images are for; they take its order of the classes, and three channels where it takes three.
        given: the images themselves, for the name ``python``; whatever `mmard.data.given.parts_of` takes.
        trains: somebody is to learn from them: files are read to find test pictures that are copies of training pictures.
        **files: as in `FileOptions`.

    Raises:
        MmardError: for data that are not there or not what they should be, for options without meaning for them, and, before an
            image is decoded, for a model of other classes or channels.
    """
    options = FileOptions(name=name, **files)
    must_be_used(name, [key for key in options.given() if key != "stream"])
    wanted = replace(options.wanted((limit, test_limit), seed, model), trains=trains)
    found = ready(_open(options) if given is None else parts_of(given, options.keys()), wanted)
    learnt: ImageSet = found.train if options.stream else found.train.in_memory()
    data = split(name, learnt, found.test.in_memory(), held_out=held_out, seed=seed)
    return replace(data, skipped=found.skipped, source=found.names, shared=found.shared)


def _digits(_options: FileOptions) -> dict[str, Part]:
    from sklearn.datasets import load_digits

    bunch, names = load_digits(), tuple(map(str, range(10)))
    pixels = np.round(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    whole = Arrays.of(Images.of(pixels, bunch.target, names))
    test, train = stratified(whole.labels, 360, seed=0)
    return {"train": whole.take(train), "test": whole.take(test)}


def _parquet(options: FileOptions) -> dict[str, Part]:
    files = _train_and_test(options)
    # Each by itself: together, the columns of one would be read as if they were those of the other.
    return _tables(
        {part: _datasets().load_dataset("parquet", data_files={part: at}, split=part) for part, at in files.items()},
        options,
    )


def _train_and_test(options: FileOptions) -> dict[str, list[str]]:
    """Find the files of both parts; those of the training part alone where the test images are cut off."""
    if not options.train or (not options.test and options.test_split is None):
        raise MmardError(
            f"{options.name} needs both data.train=FILES and data.test=FILES, or data.test_split=0.2 in place of the latter"
        )
    files = {"train": patterns_of(options.train, "train")}
    return files | ({"test": patterns_of(options.test, "test")} if options.test else {})


def _image_folder(options: FileOptions) -> dict[str, Part]:
    if not options.root:
        raise MmardError("imagefolder needs data.root=FOLDER with train/ and test/ in it")
    return _tables(folder_splits(options.root, whole=options.test_split is not None), options)


def _hub(options: FileOptions) -> dict[str, Part]:
    if "/" not in options.name:
        raise MmardError(f"unknown data set {options.name!r}; known: {', '.join(SOURCES)}")
    return _tables(_datasets().load_dataset(options.name), options)


def _given(options: FileOptions) -> dict[str, Part]:
    raise MmardError(
        "the images of this run were given by a Python program, and no command can read them; name data that hold the same "
        "classes: data.name=npz data.train=FILE.npz, say"
    )


def _npz(options: FileOptions) -> dict[str, Part]:
    if not isinstance(options.train, str) or isinstance(options.test, list):
        raise MmardError("npz needs data.train=FILE.npz, one file, with the keys x and y, say")
    found = parts_in(NpzFile(Path(options.train).expanduser()), options.keys(), options.train)
    if options.test:
        found = {"train": found["train"]}
        found["test"] = parts_in(NpzFile(Path(options.test).expanduser()), options.keys(), options.test, "test")["test"]
    return found


def _csv(options: FileOptions) -> dict[str, Part]:
    return {part: listed(at, options.image, options.label, part) for part, at in _plain_files(options).items()}


def _shards(options: FileOptions) -> dict[str, Part]:
    return {part: sharded(at, options.label, part) for part, at in _plain_files(options).items()}


def _plain_files(options: FileOptions) -> dict[str, list[str]]:
    """Find the files of both parts by their patterns, in order of their paths."""
    found = {}
    for part, patterns in _train_and_test(options).items():
        found[part] = [f for p in patterns for one in expanded(p) for f in sorted(glob.glob(one))]  # noqa: PTH207, may be absolute
        for file in found[part]:
            must_be_itself(Path(file))
        if not found[part]:
            raise MmardError(
                f"there is no file {getattr(options, part)}; expected data.{part}=FILE or a pattern of files"
            )
    return found


def _code(options: FileOptions) -> dict[str, Part]:
    raise MmardError(
        f"the code {options.name} is not run here; call it, and give what it returns: load('python', given=...)"
    )


def _tables(splits: Mapping[str, Any], options: FileOptions) -> dict[str, Part]:
    """Read the labels of the splits that are used: the training part, and the one to test on."""
    keys = options.keys()
    tested = tested_of(splits, keys)
    return {part: table_of(splits[part], keys) for part in splits if part in ("train", tested)}


def _datasets() -> Any:
    import datasets

    datasets.disable_progress_bars()
    return datasets


def _open(options: FileOptions) -> dict[str, Part]:
    """Open a data set: its splits, nothing decoded yet where they lie on disk."""
    name = options.name
    source = source_of(name)
    try:
        if source.options:
            import PIL  # noqa: F401

            _datasets()
        return source.open(options)
    except ImportError as e:
        raise MmardError(
            f"data set {name!r} needs one more package: pip install 'mmard[data]' (without it: digits)"
        ) from e
    except MmardError:
        raise
    except Exception as e:  # the library has a dozen kinds of failure; each means that there is no such data here
        raise MmardError(f"cannot load data set {name!r}: {first_line(e)}") from e


@dataclass(frozen=True)
class Source:
    """A kind of data sets.

    Attributes:
        line: what `mmard ls data` says of it.
        open: from the options to its splits: train, and test where it has one.
        options: those of `FileOptions` that mean something for it.
        places: those of them that say where the files lie; somebody else's settings need the user's word for these.
        leads_on: the files may name pictures anywhere, by paths or links.
    """

    line: str
    open: Callable[[FileOptions], dict[str, Part]]
    options: frozenset[str] = frozenset()
    places: tuple[str, ...] = ()
    leads_on: bool = True


HUB = "OWNER/NAME"
PYTHON = "python"
CODE = "FILE.py:FUNCTION"
_SHAPE = frozenset({"size", "resize", "fit", "channels", "test_split", "test_seed"})
_NAMED = _SHAPE | {"image", "label"}
_FILES = frozenset({"stream", "on_error"})
_PLACES = ("train", "test")
SOURCES = {
    "digits": Source("1,797 handwritten digits, 8×8 grey, 10 classes, from scikit-learn; nothing to download", _digits),
    "parquet": Source(
        "parquet files with an image and a label column (data.train=..., data.test=...)",
        _parquet, _NAMED | _FILES | {*_PLACES}, _PLACES,
    ),
    "imagefolder": Source(
        "folders of images, one folder a class, in train/ and test/ (data.root=...)",
        _image_folder, _SHAPE | _FILES | {"root"}, ("root",),
    ),
    "npz": Source(
        "arrays in .npz files, with keys such as x and y, or x_train ... y_test (data.train=FILE.npz)",
        _npz, _NAMED | {*_PLACES}, _PLACES, leads_on=False,
    ),
    "csv": Source(
        "pictures listed in CSV files with the columns path and label (data.train=FILE.csv)",
        _csv, _NAMED | _FILES | {*_PLACES}, _PLACES,
    ),
    "webdataset": Source(
        "tar files with 0001.jpg and 0001.cls or .json in them ('data.train=train-{000..099}.tar')",
        _shards, _SHAPE | _FILES | {*_PLACES, "label"}, _PLACES, leads_on=False,
    ),
    CODE: Source("your own function that returns arrays or data sets, also package.module:build", _code, _NAMED | {"parameters"}),
    PYTHON: Source("images that a Python program gives: arrays, a torch Dataset, a datasets.Dataset", _given, _NAMED),
    HUB: Source("any image data set of the Hugging Face hub, such as uoft-cs/cifar10", _hub, _NAMED | _FILES),
}  # fmt: skip


def source_of(name: str) -> Source:
    """Find the kind of a data set by its name: a word of `SOURCES`, a function of one's own, or a name of the hub."""
    return SOURCES.get(name, SOURCES[CODE if is_code(name) else HUB])


def is_code(name: str) -> bool:
    """Tell whether a name is that of a function: ``file.py:build`` or ``package.module:build``."""
    return ":" in name and "://" not in name


def unused(name: str, keys: Sequence[str]) -> list[str]:
    """Find the settings among ``keys`` (such as ``"size"``) that have no meaning for the data set ``name``."""
    used = source_of(name).options
    return [key for key in keys if key not in used and any(key in other.options for other in SOURCES.values())]


def must_be_used(name: str, keys: Sequence[str]) -> None:
    """Raise MmardError for settings that were given and have no meaning for the data set."""
    if ignored := unused(name, keys):
        takers = [kind for kind, source in SOURCES.items() if ignored[0] in source.options]
        raise MmardError(
            f"data.{ignored[0]} means nothing for data.name={name}, only for {', '.join(takers)}; leave it out, or name other data"
        )
