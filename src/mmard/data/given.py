"""Images given by a Python program: arrays, pairs, data sets of `torch` and of Hugging Face, and mappings of them."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmard.data.columns import (
    LABEL_COLUMNS,
    image_column,
    is_nested,
    is_unlabelled,
    label_column,
    labels_of,
    numbered,
)
from mmard.data.encoded import Fit, Notes
from mmard.data.images import Images, levels
from mmard.data.labels import as_array
from mmard.data.parts import TEST_SPLITS, Arrays, Part, Table
from mmard.data.pictures import channels_first, is_picture, pixels_of, stacked
from mmard.utils.errors import MmardError, first_line

SPLITS = ("train", *TEST_SPLITS)
AGAIN = 32  # images of a data set that are asked for twice
KINDS = (
    "arrays (x, y), a torch Dataset of (picture, label), a datasets.Dataset, (train, test) of these, or a mapping with train "
    "and test"
)
PIXEL_KEYS = ("image", "images", "x", "img", "imgs", "picture", "pictures", "pixels", "pixel_values", "data")
LABEL_KEYS = (*LABEL_COLUMNS, "y", "target", "targets", "cls")
NAME_THEM = "data.image=KEY data.label=KEY"
NAME_KEYS = ("classes", "class_names", "label_names", "names")


@dataclass(frozen=True)
class Keys:
    """The names of the image and the label column, or key, where a source has several; and the size wanted of pictures."""

    image: str | None = None
    label: str | None = None
    fit: Fit = field(default_factory=Fit)


def parts_of(given: object, keys: Keys = Keys()) -> dict[str, Part]:
    """Make the splits of images that a program gives.

    Args:
        given: arrays ``(x, y)`` (x (N, C, H, W), (N, H, W, C) or (N, H, W), uint8 or in [0, 1]; y class numbers or words), a
            `torch` Dataset of (picture, label), a ``datasets.Dataset``, `Images`, a pair ``(train, test)`` of any of these,
            ``(x, y, x_test, y_test)``, or a mapping from train and test to them, such as a ``DatasetDict``.
        keys: names of columns, and the size for pictures that come one by one.

    Raises:
        MmardError: for anything else, and for images or labels that are none.
    """
    if isinstance(given, Mapping) and "train" in given:
        return {part: part_of(given[part], keys) for part in ("train", tested_of(given, keys)) if part is not None}
    if isinstance(given, Mapping):
        return parts_in(given, keys, "the mapping")
    if isinstance(given, tuple | list) and len(given) == 4 and all(map(_is_array, given)):
        return {"train": part_of(tuple(given[:2]), keys), "test": part_of(tuple(given[2:]), keys)}
    if isinstance(given, tuple | list) and len(given) == 2 and not all(map(_is_array, given)):
        return {"train": part_of(given[0], keys), "test": part_of(given[1], keys)}
    return {"train": part_of(given, keys)}


def tested_of(splits: Mapping[str, Any], keys: Keys) -> str | None:
    """Choose the split to test on, the first of `TEST_SPLITS` with labels; a warning names those that have none."""
    there = [split for split in TEST_SPLITS if split in splits]
    bare = [split for split in there if is_unlabelled(splits[split], keys.label)]
    tested = next((split for split in there if split not in bare), None)
    if bare and (tested is None or there.index(bare[0]) < there.index(tested)):
        instead = f"{tested} is taken" if tested else "no test images are left"
        warnings.warn(f"the labels of the split {bare[0]} are all -1, and it is left out: {instead}", stacklevel=2)
    return tested


def is_images(value: object) -> bool:
    """Tell whether a value is images, rather than the settings of a data set: words and numbers by name."""
    if value is None or isinstance(value, str | bytes | int | float):
        return False
    if isinstance(value, Mapping) and isinstance(value.get("name"), str):
        return False
    return not isinstance(value, Mapping) or any(_holds_images(inside) for inside in value.values())


def _holds_images(value: object) -> bool:
    plain = isinstance(value, str | bytes | int | float | Path | None)
    return not plain and not (isinstance(value, list | tuple) and all(isinstance(one, str | Path) for one in value))


def has_test(given: object) -> bool:
    """Tell whether images come with test images of their own; see `parts_of`."""
    if isinstance(given, Mapping):
        return any(str(key).lower().startswith(TEST_SPLITS) or str(key).lower().endswith(TEST_SPLITS) for key in given)
    if not isinstance(given, tuple | list):
        return False
    return len(given) == (4 if all(_is_array(one) for one in given) else 2)


def part_of(given: object, keys: Keys = Keys()) -> Part:
    """Make one split of arrays, a data set, or a mapping of arrays; see `parts_of`."""
    if isinstance(given, Images):
        return Arrays.of(given)
    if isinstance(given, tuple | list) and len(given) == 2 and all(map(_is_array, given)):
        return arrays_of(*given)
    if isinstance(given, Mapping):
        return parts_in(given, keys, "the mapping")["train"]
    if hasattr(given, "features") and hasattr(given, "select_columns") and hasattr(given, "__len__"):
        return table_of(given, keys)
    if type(given).__name__ == "DataLoader":
        raise MmardError("got a DataLoader, expected the images themselves; give its data set: loader.dataset")
    if not isinstance(given, tuple | list | str | Tensor | np.ndarray) and hasattr(given, "__getitem__"):
        return _of_items(given, keys)
    raise MmardError(f"data are a {type(given).__name__}, expected {KINDS}")


def _is_array(value: object) -> bool:
    column = hasattr(value, "__array__") and not isinstance(value, torch.utils.data.Dataset)  # such as one of pandas
    return isinstance(value, Tensor | np.ndarray | list) or column


def arrays_of(x: object, y: object, names: tuple[str, ...] = (), what: str = "labels") -> Arrays:
    """Check and convert images (N, C, H, W), (N, H, W, C) or (N, H, W) and their labels, numbers or words.

    Raises:
        MmardError: for pixels or labels that are none.
    """
    if isinstance(x, list) and any(map(is_picture, x)):
        notes = Notes()
        x = stacked([pixels_of(one, number, Fit(), notes) for number, one in enumerate(x)], False)
    pixels, labels = as_array(x, "pixels"), as_array(y, what)
    if labels.dtype.kind == "S":
        labels = np.char.decode(labels, "utf-8", "replace")
    numbers, found = numbered(labels, what, names)
    image = levels(channels_first(pixels), len(numbers))
    if image.shape[1] not in (1, 3):
        raise MmardError(f"images have {image.shape[1]} channels, expected 1 or 3; leave the others out")
    return Arrays(image, numbers, found, bool(names) or not found, torch.arange(len(numbers)))


def parts_in(arrays: Mapping[Any, Any], keys: Keys, where: str, only: str = "train") -> dict[str, Part]:
    """Find images and labels by their keys: ``x`` and ``y`` and the like, or a pair a split, such as ``x_train`` and ``y_train``.

    Args:
        arrays: by key.
        where: the name of the whole, in messages.
        only: the split that ``x`` and ``y`` are of, which has to be there.

    Raises:
        MmardError: where there are none, with the keys that there are.
    """
    have = [key for key in arrays if isinstance(key, str)]
    names = next((tuple(map(str, as_array(arrays[k], k).tolist())) for k in NAME_KEYS if k in have), ())
    found: dict[str, Part] = {}
    for split in ("", *SPLITS):
        if only in found and split in ("train", only):
            continue
        image, label = (
            key_of(have, usual, one, split) for usual, one in ((PIXEL_KEYS, keys.image), (LABEL_KEYS, keys.label))
        )
        if image and label:
            x, y = arrays[image], arrays[label]
            found[split or only] = arrays_of(x, y, names, f"labels in {label!r} of {where}")
    if only not in found:
        raise MmardError(
            f"{where} has the keys {', '.join(have[:8]) or 'none'}; expected images and labels, such as x and y: name them, "
            f"{NAME_THEM}"
        )
    return found


def key_of(have: list[str], usual: tuple[str, ...], asked: str | None = None, split: str = "") -> str | None:
    """Find the key of images or labels among those that there are: the requested or a usual one, of a split where it is named."""
    for one in [asked] if asked else usual:
        for name in [f"{split}_{one}", f"{one}_{split}"] if split else [one]:
            if match := [key for key in have if key.lower() == name.lower()]:
                return match[0]
    return None


def table_of(rows: Any, keys: Keys = Keys()) -> Part:
    """Find the image and the label column of a Hugging Face data set, and read the labels; pixels as numbers are read, too."""
    if rows.format["type"] == "custom":
        warnings.warn("the data set's own transform is left out: pictures are read as they are stored", stacklevel=2)
        rows = rows.with_format(None)
    column = keys.image or next((c for c in PIXEL_KEYS if c in rows.features), None)
    if column in rows.features and is_nested(rows.features[column]):
        label = label_column(rows, keys.label)
        y, names = labels_of(rows, label)
        declared = hasattr(rows.features[label], "names")
        return Arrays(_nested(rows, str(column)), y, names, declared or not names, torch.arange(len(y)))
    table, image = image_column(rows, keys.image)
    label = label_column(table, keys.label)
    y, names = labels_of(table, label)
    declared = hasattr(table.features[label], "names")
    return Table(table, image, y, names, declared or not names, torch.arange(len(y)))


def _nested(rows: Any, column: str) -> Tensor:
    """Read images that are lists of numbers: rows of pixels, or all pixels of a square grey image in one list."""
    pixels = as_array(rows.with_format("numpy")[column][:], f"the column {column!r}")
    if missing := sum(one is None for one in pixels) if pixels.dtype == object else 0:
        raise MmardError(
            f"{missing:,} of {len(pixels):,} images in the column {column!r} are missing; leave those rows out"
        )
    if pixels.dtype == object and len(pixels):
        raise MmardError(
            f"the images in the column {column!r} have several shapes, expected one; store encoded pictures"
        )
    side = round(pixels.shape[1] ** 0.5) if pixels.ndim == 2 else 0
    if pixels.ndim == 2 and side * side != pixels.shape[1]:
        raise MmardError(
            f"the column {column!r} has {pixels.shape[1]} numbers an image, which is no square grey one; store (H, W) or "
            "(C, H, W) nested, or encoded pictures"
        )
    pixels = pixels.reshape(-1, side, side) if side else pixels
    whole = (
        pixels.dtype.kind in "iu" and pixels.size and pixels.min() >= 0 and pixels.max() <= 255
    )  # pandas widens them
    return levels(channels_first(pixels.astype(np.uint8) if whole else pixels), len(rows))


def _of_items(given: Any, keys: Keys) -> Arrays:
    """Read a `torch` Dataset of (picture, label) into memory, one item after another.

    Raises:
        MmardError: for items that are no pairs, change from one look to the next, or are of several sizes.
    """
    notes, pictures, labels, arrays_too = Notes(), list[np.ndarray](), list[Any](), False
    for number, item in enumerate(_items(given)):
        picture, label = _pair(item, number, keys)
        pictures.append(pixels_of(picture, number, keys.fit, notes))
        labels.append(_plain_label(label))
        arrays_too |= not is_picture(picture)
    if not pictures:
        raise MmardError("the data set is empty: 0 images")
    for number in range(0, len(pictures), -(-len(pictures) // AGAIN)):
        again, first = pixels_of(_pair(given[number], number, keys)[0], number, keys.fit, notes), pictures[number]
        if again.shape != first.shape or not np.array_equal(again, first, equal_nan=again.dtype.kind == "f"):
            raise MmardError(
                f"the data set gives another image {number} each time: its transform is random; leave that out, and choose "
                "data.augment"
            )
    arrays = arrays_of(stacked(pictures, not arrays_too), labels, names_of(given, labels))
    return Arrays(arrays.pixels, arrays.labels, arrays.names, arrays.numbers, arrays.index, fitted=not arrays_too)


def _plain_label(label: Any) -> Any:
    """Return a number out of an array of one."""
    if not isinstance(label, Tensor | np.generic | np.ndarray):
        return label
    value = label.tolist()
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _items(given: Any) -> Iterator[Any]:
    number = 0
    try:
        count = len(given)
    except TypeError as e:
        raise MmardError(
            f"data are a {type(given).__name__} without a length ({first_line(e)}); expected {KINDS}"
        ) from e
    try:
        for number in range(count):
            yield given[number]
    except MmardError:
        raise
    except Exception as e:  # whatever somebody's data set raises
        raise MmardError(f"item {number} of the data set fails: {type(e).__name__}: {first_line(e)}") from e


def _pair(item: Any, number: int, keys: Keys) -> tuple[Any, Any]:
    """Return the picture and the label of an item."""
    if isinstance(item, Mapping):
        have = [key for key in item if isinstance(key, str)]
        image, label = key_of(have, PIXEL_KEYS, keys.image), key_of(have, LABEL_KEYS, keys.label)
        if image and label:
            return item[image], item[label]
        raise MmardError(
            f"item {number} has the keys {', '.join(have[:8]) or 'none'}; expected image and label: name them, {NAME_THEM}"
        )
    if isinstance(item, tuple | list) and len(item) >= 2:
        return item[0], item[1]
    raise MmardError(f"item {number} of the data set is a {type(item).__name__}, expected (picture, label)")


def names_of(given: Any, labels: list[Any]) -> tuple[str, ...]:
    """Read the class names that a data set, or the one that it is a part of, has in ``classes``; empty where they do not fit."""
    for _ in range(8):
        classes = getattr(given, "classes", None)
        if classes is not None or not hasattr(given, "dataset"):
            break
        given = given.dataset
    if not isinstance(classes, list | tuple) or any(isinstance(label, str | list) for label in islice(labels, 1)):
        return ()
    names = tuple(", ".join(map(str, n)) if isinstance(n, tuple | list) else str(n) for n in classes)
    numbers = all(isinstance(label, int) for label in labels)
    return names if numbers and len(set(names)) == len(names) and max(labels) < len(names) else ()
