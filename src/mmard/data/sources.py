"""Where images come from: the embedded digits, parquet files, image folders, and the hub."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mmard.core.errors import MmardError, first_line
from mmard.data.images import DataSet, Images, ImageSet, check_labels, some, split, stratified
from mmard.data.pictures import CURE, Pictures
from mmard.data.streamed import Streamed

SOURCES = {
    "digits": "1,797 handwritten digits, 8×8 grey, 10 classes, from scikit-learn; nothing to download",
    "parquet": "parquet files with an image and a label column (data.train=..., data.test=...)",
    "imagefolder": "folders of images, one folder a class, in train/ and test/ (data.root=...)",
    "OWNER/NAME": "any image data set of the Hugging Face hub, such as uoft-cs/cifar10",
}
TEST_SPLITS = ("test", "validation", "valid", "val")
LABEL_COLUMNS = ("label", "labels", "fine_label")


def load(
    name: str,
    *,
    train: str | Sequence[str] | None = None,
    test: str | Sequence[str] | None = None,
    root: str | None = None,
    label: str | None = None,
    size: int | None = None,
    held_out: float = 0.1,
    limit: int | None = None,
    test_limit: int | None = None,
    seed: int = 0,
    stream: bool = False,
) -> DataSet:
    """Load a data set and cut its held-out split.

    Args:
        name: one of `SOURCES`.
        train, test: parquet files (paths, globs or lists).
        root: of an image folder.
        label: the label column, where there are several.
        size: make every image size×size (shorter side resized, then the centre); needed where sizes differ.
        held_out: share of the training set to choose checkpoints and settings on.
        limit, test_limit: keep about so many images of each, every class in proportion.
        seed: of the splits.
        stream: the training images stay on disk and are decoded batch by batch; the held-out and the test images are
            in memory all the same, and so are the digits.
    """
    if name == "digits":
        whole, judged = (some(part, n, seed) for part, n in zip(_digits(), (limit, test_limit), strict=True))
        return split(name, whole, judged, held_out=held_out, seed=seed)
    files, tested = _from_files(_open(name, train, test, root), name, label, size, (limit, test_limit), seed)
    learnt: ImageSet = files if stream else files.in_memory()
    return split(name, learnt, tested.in_memory(), held_out=held_out, seed=seed)


def _from_files(
    splits: Any, name: str, label: str | None, size: int | None, limits: tuple[int | None, int | None], seed: int
) -> tuple[Streamed, Streamed]:
    """Training and test images of one shape and with the same classes."""
    test_name = next((s for s in TEST_SPLITS if s in splits), None)
    if "train" not in splits or test_name is None:
        raise MmardError(f"{name} has the splits {', '.join(splits)}; expected train and {' or '.join(TEST_SPLITS)}")
    train = _on_disk(splits["train"], label, size, limits[0], seed)
    test = _on_disk(splits[test_name], label, size, limits[1], seed, train.classes)
    if train.pictures.shape != test.pictures.shape:
        shapes = ["{1}×{0}".format(*part.pictures.shape) for part in (train, test)]
        raise MmardError(f"training images are {shapes[0]} and test images {shapes[1]}; {CURE}")
    return train, test


def _digits() -> tuple[Images, Images]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.round(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    whole = Images.of(pixels, bunch.target, tuple(map(str, range(10))))
    test, train = stratified(whole.labels, 360, seed=0)
    return whole.take(train), whole.take(test)


def _open(name: str, train: Any, test: Any, root: str | None) -> Any:
    """The splits, as a mapping of Hugging Face data sets."""
    try:
        import datasets
        import PIL  # noqa: F401
    except ImportError as e:
        raise MmardError(
            f"data set {name!r} needs one more package: pip install 'mmard[data]' (without it: digits)"
        ) from e
    datasets.disable_progress_bars()
    try:
        if name == "parquet":
            if not train or not test:
                raise MmardError("parquet needs both data.train=FILES and data.test=FILES")
            return datasets.load_dataset("parquet", data_files={"train": train, "test": test})
        if name == "imagefolder":
            if not root:
                raise MmardError("imagefolder needs data.root=FOLDER with train/ and test/ in it")
            return datasets.load_dataset("imagefolder", data_dir=root, drop_labels=False)
        if "/" not in name:
            raise MmardError(f"unknown data set {name!r}; known: {', '.join(SOURCES)}")
        return datasets.load_dataset(name)
    except MmardError:
        raise
    except Exception as e:  # the library has a dozen kinds of failure; each means that there is no such data here
        raise MmardError(f"cannot load data set {name!r}: {first_line(e)}") from e


def _on_disk(
    rows: Any, label: str | None, size: int | None, limit: int | None, seed: int, known: tuple[str, ...] = ()
) -> Streamed:
    """One split, with a limit only what is kept; nothing is decoded yet. ``known``: the training set's classes."""
    image_column, label_column, names = _columns(rows, label)
    labels, classes = _labels(rows.with_format("numpy")[label_column][:], label_column), names or known
    classes = classes or tuple(str(k) for k in range(int(labels.max(initial=-1)) + 1))
    if not known and len(empty := np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 0)):
        raise MmardError(f"the training set has no image of class {classes[empty[0]]!r}")
    y, index = torch.from_numpy(labels), torch.arange(len(labels))
    if limit is not None and limit < len(labels):
        index = stratified(y, limit, seed)[0]
    if len(index) == 0:
        raise MmardError("the data set is empty: 0 images")
    check_labels(y[index], classes)
    return Streamed(Pictures(rows, image_column, size, first=int(index[0])), y[index], classes, index)


def _labels(column: Any, name: str) -> np.ndarray:
    """Class numbers (N,) int64."""
    labels = np.asarray(column)
    if labels.dtype.kind == "f" and np.isnan(labels).any():
        raise MmardError(f"{np.isnan(labels).sum():,} of {len(labels):,} images have no label in the column {name!r}")
    if labels.dtype.kind not in "iu" and len(labels):
        raise MmardError(
            f"the label column {name!r} holds {labels.dtype}, expected whole numbers; name another: data.label=COLUMN"
        )
    if labels.min(initial=0) < 0 or labels.max(initial=0) > 100_000:
        raise MmardError(
            f"labels lie in [{labels.min()}, {labels.max()}], expected class numbers; is this split without labels?"
        )
    return labels.astype(np.int64)


def _columns(rows: Any, label: str | None) -> tuple[str, str, tuple[str, ...]]:
    """Names of the image and the label column, and the names of the classes where the data set has them."""
    kinds = {column: type(feature).__name__ for column, feature in rows.features.items()}
    image = next((c for c, kind in kinds.items() if kind == "Image"), None)
    if image is None:
        raise MmardError(f"no image column among {', '.join(kinds)}; expected one of the type Image")
    labels = [c for c in LABEL_COLUMNS if c in kinds] + [c for c, kind in kinds.items() if kind == "ClassLabel"]
    chosen = label or next(iter(labels), None)
    if chosen is None or chosen not in kinds:
        raise MmardError(
            f"no label column{f' {label}' if label else ''} among {', '.join(kinds)}; name it: data.label=COLUMN"
        )
    names = getattr(rows.features[chosen], "names", None)
    return image, chosen, tuple(names or ())
