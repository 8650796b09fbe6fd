"""Columns of a table of images: finding the images, the labels and the names of the classes."""

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmard.data.labels import as_array, class_numbers, in_order
from mmard.utils.errors import MmardError, first_line

LABEL_COLUMNS = ("label", "labels", "fine_label")
IMAGE_COLUMNS = ("image", "img", "picture", "pixels")
CURE = "name another: data.label=COLUMN"


def image_column(rows: Any, asked: str | None = None) -> tuple[Any, str]:
    """Find the image column, or take the requested one; returns the table with that column of the type Image, and its name.

    Encoded pictures are taken where no column says that it holds images: bytes, or ``{bytes, path}`` as pandas writes them.
    """
    import datasets

    kinds = {column: type(feature).__name__ for column, feature in rows.features.items()}
    if asked is not None:
        if asked not in kinds:
            raise MmardError(f"no image column {asked} among {', '.join(kinds)}; name another: data.image=COLUMN")
        kinds = {asked: kinds[asked]}
    images = [c for c, kind in kinds.items() if kind == "Image"]
    images = images or [c for c in kinds if _holds_bytes(rows.features[c])]
    if not images:
        raise MmardError(
            f"no image column among {', '.join(kinds)}; expected one of the type Image, of encoded bytes, or of {{bytes, path}}, "
            "or name one of pixels: data.image=COLUMN"
        )
    chosen = next((c for c in IMAGE_COLUMNS if c in images), images[0])
    if len(images) > 1:
        warnings.warn(f"there are several image columns ({', '.join(images)}): {chosen} is taken", stacklevel=2)
    if kinds[chosen] == "Image":
        return rows, chosen
    try:
        return rows.cast_column(chosen, datasets.Image()), chosen
    except Exception as e:  # the library has several kinds of failure; all mean that these are no encoded pictures
        raise MmardError(f"the column {chosen!r} holds no encoded pictures: {first_line(e)}") from e


def _holds_bytes(feature: Any) -> bool:
    if isinstance(feature, dict):
        return set(feature) <= {"bytes", "path"} and "bytes" in feature and _holds_bytes(feature["bytes"])
    return getattr(feature, "dtype", None) in ("binary", "large_binary")


def is_nested(feature: Any) -> bool:
    """Tell whether a column holds lists of numbers, at any depth: pixels as pandas writes arrays."""
    inside = feature
    while not isinstance(inside, dict) and hasattr(inside, "feature"):
        inside = inside.feature
    if type(inside).__name__.startswith("Array") and hasattr(inside, "shape"):
        return True
    return inside is not feature and str(getattr(inside, "dtype", "")).startswith(("int", "uint", "float", "double"))


def label_column(rows: Any, asked: str | None) -> str:
    """Find the label column: the requested one, one with a usual name, or the only one of the type ClassLabel."""
    kinds = {column: type(feature).__name__ for column, feature in rows.features.items()}
    if asked is not None:
        if asked not in kinds:
            raise MmardError(f"no label column {asked} among {', '.join(kinds)}; {CURE}")
        return asked
    usual = [c for c in LABEL_COLUMNS if c in kinds]
    others = [c for c, kind in kinds.items() if kind == "ClassLabel" and c not in usual]
    if not usual and len(others) != 1:
        found = (
            f"several label columns ({', '.join(others)})" if others else f"no label column among {', '.join(kinds)}"
        )
        raise MmardError(f"{found}; name it: data.label=COLUMN")
    both: list[str] = [*usual, *others]
    chosen, rest = both[0], both[1:]
    if rest:
        warnings.warn(
            f"there are several label columns ({chosen}, {', '.join(rest)}): {chosen} is taken; {CURE}", stacklevel=2
        )
    return chosen


def is_unlabelled(rows: Any, asked: str | None) -> bool:
    """Tell whether all labels of a data set of Hugging Face are -1, as in test splits that are published without them."""
    if not hasattr(rows, "select_columns"):
        return False
    features = rows.features or {}  # a stream may not know them
    column = next((c for c in ([asked] if asked else LABEL_COLUMNS) if c in features), None)
    if column is None or not hasattr(features[column], "names"):
        return False
    values = np.asarray(rows.with_format("numpy")[column][:])
    return bool(len(values)) and bool((values == -1).all())


def labels_of(rows: Any, column: str) -> tuple[Tensor, tuple[str, ...]]:
    """Read class numbers (N,) int64, and the names of the classes; no names where numbers are all that there is.

    Words are classes in order of their names, or of their numbers where all are whole numbers; so are true and false.
    Words that are all numbers with a point (``"1.0"``) are class numbers.
    """
    what = f"labels in the column {column!r}"
    try:
        values = rows.with_format("numpy")[column][:]
    except Exception as e:  # whatever a column of something else makes the library say
        raise MmardError(f"the {what} cannot be read: {first_line(e)}; {CURE}") from e
    y = as_array(values, what)
    return numbered(y, what, tuple(getattr(rows.features[column], "names", None) or ()), CURE)


def numbered(y: NDArray[Any], what: str, names: tuple[str, ...] = (), cure: str = "") -> tuple[Tensor, tuple[str, ...]]:
    """Number labels as read: class numbers (N,) int64, and the names of the classes; no names where numbers are all that there is.

    Args:
        names: that the source itself declares, of which the labels are numbers.
        cure: what else may help where they are no classes.

    Raises:
        MmardError: for labels that are no classes.
    """
    if names:
        if y.dtype.kind in "iu" and (y == -1).any():
            raise MmardError(f"{int((y == -1).sum()):,} of {len(y):,} {what} are -1; is this split without labels?")
        return class_numbers(y, what), names
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.dtype.kind == "b" and y.ndim == 1:
        return class_numbers(y, what), ("False", "True")
    if y.dtype.kind in "UO" and y.ndim == 1 and len(y):
        words = y.tolist()
        numbers = None if all(map(_is_whole, words)) else _as_numbers(words)
        if numbers is None:
            return _of_words(words, what, cure)
        if ((numbers >= 0) & (numbers % 1 == 0)).all():  # "1.0", which pandas makes of class 1 beside a missing one
            return _of_words([f"{number:.0f}" for number in numbers], what, cure)
        y = numbers
    try:
        return class_numbers(y, what), ()
    except MmardError as e:
        raise MmardError(f"{e}, or {cure}" if cure else str(e)) from e


def text_labels(values: list[str], what: str) -> tuple[Tensor, tuple[str, ...]]:
    """Number labels that are text: class numbers where all are numbers, else words."""
    numbers = _as_numbers(values)
    return numbered(np.array(values, object) if numbers is None else numbers, what, (), CURE)


def _is_whole(value: Any) -> bool:
    return isinstance(value, str) and value.isascii() and value.isdecimal()


def _as_numbers(values: list[Any]) -> NDArray[np.float64] | None:
    """Read words that are all numbers, such as ``"1.0"``, and missing ones ("nan", "") beside them; None where one is a word."""
    if not all(isinstance(value, str) and value.isascii() and "_" not in value for value in values):
        return None
    try:
        numbers = np.array([float(value.strip() or "nan") for value in values])
    except ValueError:
        return None
    return numbers if np.isfinite(numbers).any() else None


def _of_words(values: list[Any], what: str, cure: str) -> tuple[Tensor, tuple[str, ...]]:
    if missing := sum(value is None for value in values):
        raise MmardError(f"{missing:,} of {len(values):,} {what} are missing; leave those images out")
    if odd := [value for value in values if not isinstance(value, str)]:
        found = f"a {type(odd[0]).__name__} such as {str(odd[0])[:40]}"
        raise MmardError(f"{what} hold {found}, expected whole numbers or words{'; ' if cure else ''}{cure}")
    names = in_order(values)
    place = {name: k for k, name in enumerate(names)}
    return torch.tensor([place[value] for value in values], dtype=torch.int64), names
