"""Labels: conversion to class numbers, and the order of the classes."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmard.utils.errors import MmardError, first_line

MOST_CLASSES = 100_000


@dataclass(frozen=True)
class Known:
    """The data that a model was trained on, as far as the model says: classes and channels.

    Attributes:
        what: the model's name in messages.
        classes: its class names in the order of its outputs; empty where it does not say.
        channels: of the images that it takes; None where it does not say.
        shapes: name → numbers of classes and of channels, of each model that this is of; None where it does not say.
    """

    what: str
    classes: tuple[str, ...] = ()
    channels: int | None = None
    shapes: Mapping[str, tuple[int | None, int | None]] = field(default_factory=dict, compare=False)

    @staticmethod
    def of(what: str, names: object, count: object = None, channels: object = None) -> "Known":
        """Make a `Known` of what a file says of itself; names that cannot be those of ``count`` classes are left out."""
        given = tuple(names) if isinstance(names, list | tuple) else ()
        sound = all(isinstance(name, str) for name in given) and len(set(given)) == len(given)
        fits = sound and count in (None, len(given))
        classes, takes = (n if isinstance(n, int) else None for n in (count, channels))
        return Known(what, given if fits else (), takes, {what: (classes, takes)})

    def must_fit(self, classes: int, channels: int | None = None) -> None:
        """Raise MmardError unless all the models are for so many classes and channels; None: not known yet."""
        for what, (own, takes) in self.shapes.items():
            if own not in (None, classes):
                raise MmardError(f"{what} has {own} classes, the data {classes}")
            if takes is not None and channels not in (None, takes):
                have, data = ("", "") if own is None else (f"{own} classes and ", f"{classes} and ")
                cure = "; data.channels=1 makes all images grey" if takes == 1 else ""
                raise MmardError(f"{what} has {have}{takes} channels, the data {data}{channels}{cure}")

    def order(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return the order in which the data's classes ``names`` are numbered: the model's, if it has the same classes.

        A warning says where that is another order, and where the model's classes have other names.
        """
        own = self.classes
        if _only_numbers(names):  # an older version took "1.0" of a text file for a word
            own = tuple(name.removesuffix(".0") for name in own)
        if not own or own == names or len(own) != len(names):
            return names  # another number of classes is refused where the model is loaded
        k = next(k for k, (one, theirs) in enumerate(zip(own, names, strict=True)) if one != theirs)
        if set(own) == set(names):
            warnings.warn(
                f"{self.what} knows the classes in another order than the data (class {k} is {own[k]!r} and not {names[k]!r}): "
                "labels follow the model's order",
                stacklevel=2,
            )
            return own
        if not _only_numbers(own) and not _only_numbers(names):
            warnings.warn(
                f"{self.what} was trained on classes with other names than the data's (class {k} is {own[k]!r} there, "
                f"{names[k]!r} here): figures are wrong unless each means the same",
                stacklevel=2,
            )
        return names


def agreed(models: Iterable[Known]) -> Known | None:
    """Join what several models say: the order of the first that names its classes; 3 channels if one takes 3.

    Raises:
        MmardError: for models with the same classes in different orders, which no numbering of the labels suits.
    """
    known = list(models)
    named = [model for model in known if model.classes]
    for other in named[1:]:
        first = named[0]
        if set(other.classes) == set(first.classes) and other.classes != first.classes:
            raise MmardError(
                f"{first.what} and {other.what} know the same classes in different orders ({', '.join(first.classes[:4])} ... and "
                f"{', '.join(other.classes[:4])} ...); train one of them again on data with the other's order"
            )
        other.order(first.classes)
    takes = {model.channels for model in known}
    channels = 3 if 3 in takes else 1 if 1 in takes else None
    if not known:
        return None
    first, shapes = (named or known)[0], {what: own for model in known for what, own in model.shapes.items()}
    return Known(first.what, first.classes, channels, shapes)


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Sort names of classes; those that are all whole numbers by number.

    >>> in_order(["10", "2", "0"]), in_order(["cat", "ant", "2"])
    (('0', '2', '10'), ('2', 'ant', 'cat'))
    """
    words = set(names)
    by_number = all(word.isascii() and word.isdecimal() for word in words)
    return tuple(sorted(words, key=lambda word: (int(word) if by_number else 0, word)))


def renumbered(labels: Tensor, names: Sequence[str], order: Sequence[str]) -> Tensor:
    """Turn class numbers (N,) of ``names`` into numbers in ``order``, which holds all of the names."""
    if tuple(names) == tuple(order):
        return labels
    place = {name: k for k, name in enumerate(order)}
    return torch.tensor([place[name] for name in names], dtype=torch.int64)[labels]


def class_numbers(given: Any, what: str = "labels") -> Tensor:
    """Convert whole numbers (N,) or (N, 1), also as floats without a fraction, to class numbers (N,) int64.

    Raises:
        MmardError: for anything else, with what to do: one row a sample, words, fractions, missing values, negative numbers.
    """
    y = as_array(given, what)
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.ndim != 1:
        row = f" of {y.shape[1]} values a sample" if y.ndim == 2 else ""
        raise MmardError(
            f"{what} have shape {y.shape}{row}, expected one class number each; of one-hot rows or scores take .argmax(1)"
        )
    if y.dtype.kind == "f":
        if missing := int(np.isnan(y).sum()):
            raise MmardError(f"{missing:,} of {len(y):,} {what} are missing (NaN); leave those images out")
        if len(odd := y[y != np.floor(y)]):
            raise MmardError(f"{what} hold {odd[0]:g}, expected whole class numbers from 0")
    elif y.dtype.kind not in "iub":
        example = f" such as {str(y[0])[:40]!r}" if len(y) else ""
        raise MmardError(
            f"{what} hold {_kind(y)}{example}, expected whole class numbers from 0; number words by sorted(set(words)).index"
        )
    low, high = (y.min(), y.max()) if len(y) else (0, 0)
    if low < 0 or high > MOST_CLASSES:
        raise MmardError(f"{what} lie in [{low:g}, {high:g}], expected class numbers; is this split without labels?")
    return torch.from_numpy(y.astype(np.int64))


def must_be_classes(labels: Tensor, classes: Sequence[str], what: str = "labels") -> None:
    """Raise MmardError unless class numbers are among the classes'; there is at least one."""
    low, high = int(labels.min()), int(labels.max())
    if low >= 0 and high < len(classes):
        return
    cure = f"they begin with 1: subtract 1 from all {what}" if (low, high) == (1, len(classes)) else ""
    raise MmardError(
        f"{what} lie in [{low}, {high}], expected 0 to {len(classes) - 1}; {cure or 'is this split without labels?'}"
    )


def as_array(given: Any, what: str) -> NDArray[Any]:
    """Convert a value to a NumPy array; raise MmardError where it is none, such as rows of several lengths."""
    try:
        if isinstance(given, Tensor):
            given = given.detach().cpu()
            given = (given.float() if given.dtype == torch.bfloat16 else given).numpy()  # NumPy has no bfloat16
        kinds = {str if isinstance(one, str) else float for one in given} if isinstance(given, list | tuple) else ()
        several = len(kinds) > 1  # of numbers among words NumPy would make words
        return np.asarray(given, dtype=object if several else None)
    except Exception as e:  # whatever an object's own conversion raises
        raise MmardError(f"{what} are no array of numbers ({first_line(e)}), got a {type(given).__name__}") from e


def _kind(y: NDArray[Any]) -> str:
    if y.dtype.kind in "US" or (y.dtype.kind == "O" and len(y) and isinstance(y[0], str)):
        return "words"
    return f"{y.dtype} values"


def _only_numbers(names: tuple[str, ...]) -> bool:
    """Tell whether the names are just the numbers from 0."""
    return set(names) == {str(k) for k in range(len(names))}
