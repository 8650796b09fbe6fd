"""From what a source holds to training and test images: the cut test split, the order of the classes, one shape for all."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from mmard.data.encoded import COLOURABLE, CURE, EncodedImages, Fit, Notes, fitted
from mmard.data.images import Images, ImageSet, stratified
from mmard.data.labels import Known, must_be_classes, renumbered
from mmard.data.overlap import Mark, marks_of_arrays, marks_of_table, warn_of_shared
from mmard.data.streaming import THREADS, Streamed
from mmard.utils.errors import MmardError

TEST_SPLITS = ("test", "validation", "valid", "val")
MOST_BROKEN = 0.01  # share of the images that data.on_error=skip may leave out


class Part(Protocol):
    """One split as its source holds it, before labels are numbered: a `Table`, or `Arrays`."""

    @property
    def labels(self) -> Tensor:
        """Return the class numbers (N,) int64, in the source's own numbering."""

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the classes, where the source has any."""

    @property
    def numbers(self) -> bool:
        """Tell whether labels are numbers in the source, and no words."""

    def take(self, rows: Tensor) -> Self:
        """Select the images in these rows; their indices stay."""

    def marks(self) -> Iterator[Mark]:
        """Yield what tells each picture from others, where that is cheap to know."""


@dataclass(frozen=True, eq=False)
class Table:
    """One split as a table of encoded pictures.

    Attributes:
        rows, image: the table and its image column.
        labels, names, numbers: as of `Part`.
        index: (N,) int64, the rows of the table that are meant.
    """

    rows: Any
    image: str
    labels: Tensor
    names: tuple[str, ...]
    numbers: bool
    index: Tensor

    def take(self, rows: Tensor) -> "Table":
        """Select the images in these rows; their indices stay."""
        return replace(self, labels=self.labels[rows], index=self.index[rows])

    def marks(self) -> Iterator[Mark]:
        """Yield the path or a digest of each picture."""
        return marks_of_table(self.rows, self.image, self.index)


@dataclass(frozen=True, eq=False)
class Arrays:
    """One split in memory.

    Attributes:
        pixels: (N, C, H, W) uint8.
        labels, names, numbers: as of `Part`.
        index: (N,) int64, each image's number in the set it was first loaded in.
        fitted: they have the size already that is wanted of them.
    """

    pixels: Tensor
    labels: Tensor
    names: tuple[str, ...]
    numbers: bool
    index: Tensor
    fitted: bool = False

    @staticmethod
    def of(images: Images) -> "Arrays":
        """Take over images and the names of their classes."""
        return Arrays(images.pixels, images.labels, images.classes, True, images.index)

    def take(self, rows: Tensor) -> "Arrays":
        """Select the images in these rows; their indices stay."""
        return replace(self, pixels=self.pixels[rows], labels=self.labels[rows], index=self.index[rows])

    def marks(self) -> Iterator[Mark]:
        """Yield a digest of each image."""
        return marks_of_arrays(self.pixels)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A request for images of one shape and one order of classes, whatever the source.

    Attributes:
        name: of the data, for messages.
        test_split, test_seed: the share of the training part that is cut off as test images, and the seed of the cut.
        limits: about how many training and test images are kept.
        seed: of that choice.
        fit, channels, skip: shape, channels, and whether broken pictures are left out.
        model: that the images are for.
        adapts: grey images become three channels for a model that takes three.
        trains: files are read to find test pictures that are copies of training pictures.
    """

    name: str
    test_split: float | None = None
    test_seed: int = 0
    limits: Sequence[int | None] = (None, None)
    seed: int = 0
    fit: Fit = field(default_factory=Fit)
    channels: int | None = None
    skip: bool = False
    model: Known | None = None
    adapts: bool = True
    trains: bool = True


@dataclass(frozen=True, eq=False)
class Ready:
    """Training and test images of one shape, with their classes in one order.

    Attributes:
        names: of the classes in the source's own order.
        skipped: the fault of each picture that is left out.
    """

    train: ImageSet
    test: ImageSet
    names: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    shared: int = 0  # test images that are training images too


def ready(splits: Mapping[str, Part], wanted: Wanted) -> Ready:
    """Make training and test images of a source's splits; of tables only the first of each is decoded, unless broken are skipped.

    Raises:
        MmardError: for a part that is missing or there twice, labels that do not agree, several shapes, and a model that does
            not fit.
    """
    train, test = _two(splits, wanted)
    shared = warn_of_shared(train.marks(), test.marks(), read=wanted.trains)
    names = _classes_of(train)
    model = wanted.model
    if model is not None:
        model.must_fit(len(names))
    order, notes = model.order(names) if model else names, Notes()
    labels = [renumbered(train.labels, names, order), _as_in_training(test, train, names, order)]
    made = []
    for part, y, limit in zip((train, test), labels, wanted.limits, strict=True):
        rows = torch.arange(len(y)) if limit is None or limit >= len(y) else stratified(y, limit, wanted.seed)[0]
        if len(rows) == 0:
            raise MmardError("the data set is empty: 0 images")
        made.append(_numbered(part.take(rows), y[rows], order, wanted, notes))
    one, other = made
    skipped: list[str] = []
    if isinstance(one, Streamed) and isinstance(other, Streamed):
        if wanted.skip:
            (one, other), skipped = _without_broken((one, other))
        one, other = _of_one_shape((one, other), wanted.channels, model)
    else:
        one, other = _arrays_of_one_shape((one.in_memory(), other.in_memory()), wanted, notes)
    if model is not None:
        model.must_fit(len(order), one.channels)  # the first of each is decoded, the rest is not yet
    return Ready(one, other, names, tuple(skipped), shared)


def _two(splits: Mapping[str, Part], wanted: Wanted) -> tuple[Part, Part]:
    """Choose the training and the test part; the latter is cut off the former where that is wanted."""
    tested = next((split for split in TEST_SPLITS if split in splits), None)
    if "train" not in splits:
        raise MmardError(
            f"{wanted.name} has the splits {', '.join(splits)}; expected train and {' or '.join(TEST_SPLITS)}"
        )
    if wanted.test_split is None:
        if tested is None:
            raise MmardError(
                f"{wanted.name} has no test images, only {', '.join(splits)}; give them (see mmard ls data), or cut some off: "
                "data.test_split=0.2"
            )
        return splits["train"], splits[tested]
    if tested is not None:
        raise MmardError(f"{wanted.name} has test images of its own ({tested}); leave out data.test_split")
    return _cut(splits["train"], wanted.test_split, wanted.test_seed)


def _cut(whole: Part, share: float, seed: int) -> tuple[Part, Part]:
    """Cut a test part off, by the source's own numbering of classes: no model's order changes which images are in it."""
    names = _classes_of(whole)
    count = max(1, round(share * len(whole.labels)))
    test, train = stratified(whole.labels, count, seed, lot=False)  # older runs were trained on the rest
    left = torch.bincount(whole.labels[train], minlength=len(names))
    if len(none := (left == 0).nonzero()):
        k = int(none[0])
        raise MmardError(
            f"data.test_split={share:g} leaves no training image of class {names[k]!r}, which has "
            f"{int((whole.labels == k).sum())}; give more images of it, or a smaller data.test_split"
        )
    return replace_names(whole.take(train), names), replace_names(whole.take(test), names)


def replace_names(part: Part, names: tuple[str, ...]) -> Part:
    """Give a part of a whole the class names of the whole, where that has names."""
    return replace(part, names=names) if part.names else part  # type: ignore[type-var]


def _numbered(part: Part, y: Tensor, order: tuple[str, ...], wanted: Wanted, notes: Notes) -> ImageSet:
    """Make the images of a part, with their labels in the final numbering."""
    if isinstance(part, Table):
        return Streamed(EncodedImages(part.rows, part.image, wanted.fit, notes=notes), y, order, part.index)
    assert isinstance(part, Arrays)
    pixels = part.pixels if part.fitted else fitted_pixels(part.pixels, wanted.fit)
    return Images(pixels, y, order, part.index)


def _classes_of(train: Part) -> tuple[str, ...]:
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


def _as_in_training(test: Part, train: Part, names: tuple[str, ...], order: tuple[str, ...]) -> Tensor:
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


def _arrays_of_one_shape(parts: tuple[Images, Images], wanted: Wanted, notes: Notes) -> tuple[Images, Images]:
    """Give images in memory one number of channels and one size, or raise MmardError."""
    takes = wanted.model.channels if wanted.model is not None and wanted.adapts else None
    most = max(part.channels for part in parts)
    channels = wanted.channels or (3 if takes == 3 else most)
    if wanted.channels is not None:
        notes.leave_out(COLOURABLE)
    train, test = (replace(p, pixels=with_channels(p.pixels, channels, notes)) for p in parts)
    if train.shape != test.shape:
        shapes = ["{1}×{0}".format(*part.shape[1:]) for part in (train, test)]
        raise MmardError(f"training images are {shapes[0]} and test images {shapes[1]}; {CURE}")
    return train, test


def with_channels(pixels: Tensor, channels: int, notes: Notes) -> Tensor:
    """Make uint8 images (N, C, H, W) grey (channels 1), as Pillow's luma of ITU-R 601 does, or of three equal channels.

    Raises:
        MmardError: for images of other than 1 or 3 channels.
    """
    have = pixels.shape[1]
    if have == channels:
        return pixels
    if have not in (1, 3):
        raise MmardError(f"images have {have} channels, expected 1 or 3; leave the others out")
    if channels == 3:
        notes.say(COLOURABLE)
        return pixels.expand(-1, 3, -1, -1).contiguous()
    parts = []
    for part in torch.split(pixels, 1000):
        red, green, blue = part.int().unbind(1)
        parts.append(((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).to(torch.uint8)[:, None])
    return torch.cat(parts)


def fitted_pixels(pixels: Tensor, fit: Fit) -> Tensor:
    """Resize uint8 images (N, C, H, W) as `fitted` resizes a picture; those that are of the size already stay as they are."""
    if fit.leaves(pixels.shape[3], pixels.shape[2]):
        return pixels
    from PIL import Image

    made = []
    for image in pixels.permute(0, 2, 3, 1).numpy():
        plain = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
        made.append(np.asarray(fitted(plain, fit)).reshape(fit.size, fit.size, -1))  # type: ignore[arg-type]
    return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2).contiguous()
