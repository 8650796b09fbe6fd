"""Encoded images on disk: a memory-mapped column, decoded a batch at a time."""

import copy
import io
import threading
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mmard.utils.errors import MmardError, first_line

CURE = "give data.size=64 or another size"
GREY = ("1", "L", "LA", "La", "I", "F")  # and the kinds of I;16
PLAIN = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
FILMS = ("GIF", "TIFF", "WEBP", "PNG")
SIXTEEN_BITS = ("PNG", "PPM")  # formats whose 16 bits some versions of Pillow call "I"
COLOURABLE = (
    "grey images become three equal channels, which an adversary may colour; data.channels=1 makes all images grey"
)
PART = 256  # pictures read at once where no batch size is given


@dataclass(frozen=True)
class Fit:
    """The size that every picture gets, and the way to it.

    Attributes:
        size: every picture becomes size×size; None: all are of one size already.
        resize: the shorter side is made this long before the centre is cut out, such as 256 for a size of 224; None: ``size``.
        how: ``"crop"``: the centre, nothing stretched; ``"stretch"``: the whole picture, its shape changed; ``"pad"``: the whole
            picture, black beside it.
    """

    size: int | None = None
    resize: int | None = None
    how: Literal["crop", "stretch", "pad"] = "crop"

    def leaves(self, width: int, height: int) -> bool:
        """Tell whether a picture of this width and height stays as it is."""
        return self.size is None or ((width, height) == (self.size, self.size) and self.resize in (None, self.size))


def fitted(picture: Any, fit: Fit) -> Any:
    """Resize a Pillow picture (bicubic) and cut or pad it to its size."""
    if fit.size is None or fit.leaves(*picture.size):
        return picture
    from PIL import Image, ImageOps

    side, cubic = (fit.size, fit.size), Image.Resampling.BICUBIC
    if fit.how == "stretch":
        return picture.resize(side, cubic)
    if fit.how == "pad":
        return ImageOps.pad(picture, side, cubic)
    if fit.resize in (None, fit.size):
        return ImageOps.fit(picture, side, cubic)
    scale = fit.resize / min(picture.size)
    wide, high = (max(fit.size, round(length * scale)) for length in picture.size)
    left, top = round((wide - fit.size) / 2), round((high - fit.size) / 2)
    return picture.resize((wide, high), cubic).crop((left, top, left + fit.size, top + fit.size))


class Notes:
    """Warnings of which each is given once for a data set, whichever thread is first."""

    def __init__(self) -> None:
        self._said, self._lock = set[str](), threading.Lock()

    def leave_out(self, text: str) -> None:
        """Suppress this warning."""
        self._said.add(text)

    def say(self, text: str) -> None:
        """Warn, the first time only."""
        with self._lock:
            new = text not in self._said
            self._said.add(text)
        if new:
            warnings.warn(text, stacklevel=3)


class EncodedImages:
    """An image column of a Hugging Face data set, decoded on demand, but for one image that gives the shape.

    16-bit and float pictures are scaled to 8 bits by their mode, transparent ones are laid on white, of several frames the first is
    taken; warnings of these come once in a data set.

    Args:
        rows: the data set, its Arrow files memory-mapped.
        column: name of its image column.
        fit: the size of every picture, and the way to it.
        first: the number of a picture that will be used, which gives the shape.
        channels: 1 or 3 of every picture: colours become grey, or grey becomes three equal channels.
        notes: warnings given already; shared with another `EncodedImages`, they come once for both.

    Raises:
        MmardError: from all that decodes, for a picture that cannot be decoded, has no known range, or is of another shape.
    """

    def __init__(
        self, rows: Any, column: str, fit: Fit, *, first: int = 0, channels: int = 3, notes: Notes | None = None
    ) -> None:
        self.column, self.fit, self.feature, self.split = column, fit, rows.features[column], rows.split
        self.first, self.channels, self.notes = first, channels, notes or Notes()
        encoded = type(self.feature)(mode=self.feature.mode, decode=False)
        self.encoded = rows.select_columns([column]).cast_column(column, encoded)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Return the shape (H, W, C) of every picture."""
        return self._one(self.first, self.encoded[self.first][self.column]).shape

    def but(self, first: int, channels: int) -> "EncodedImages":
        """Copy this column with another first picture and another number of channels."""
        other = copy.copy(self)
        other.__dict__.pop("shape", None)
        other.first, other.channels = first, channels
        return other

    def decode(self, numbers: Sequence[int]) -> NDArray[np.uint8]:
        """Decode the pictures with these numbers, (B, H, W, C) uint8; may be called from several threads at once."""
        pixels = np.empty((len(numbers), *self.shape), np.uint8)
        for place, (number, file) in enumerate(zip(numbers, self.encoded[numbers][self.column], strict=True)):
            picture = self._one(number, file)
            if picture.shape != self.shape:
                sizes = ", ".join(f"{w}×{h}" for h, w, _ in (self.shape, picture.shape))
                raise MmardError(f"the images have several sizes ({sizes} ...); {CURE}")
            pixels[place] = picture
        return pixels

    def all_grey(self, numbers: Sequence[int]) -> bool:
        """Tell whether all of these pictures are grey by their headers; reading stops at the first that is not."""
        for start in range(0, len(numbers), PART):
            files = self.encoded[numbers[start : start + PART]][self.column]
            if not all(_is_grey(file, self.feature.mode) for file in files):
                return False
        return True

    def broken(self, numbers: Sequence[int], threads: int) -> dict[int, str]:
        """Find those of these pictures that cannot be decoded: number → what is wrong with it. Decodes them all."""

        quiet = self.but(self.first, self.channels)
        quiet.notes = Notes()
        quiet.notes.leave_out(COLOURABLE)  # what they become is not known yet

        def look(part: Sequence[int]) -> dict[int, str]:
            faults = {}
            for number, file in zip(part, self.encoded[part][self.column], strict=True):
                try:
                    quiet._one(number, file)
                except MmardError as e:
                    faults[number] = str(e)
            return faults

        parts = [numbers[start : start + PART] for start in range(0, len(numbers), PART)]
        with ThreadPoolExecutor(threads, "look") as pool:
            return {number: fault for faults in pool.map(look, parts) for number, fault in faults.items()}

    def _one(self, number: int, file: Any) -> NDArray[np.uint8]:
        path = file["path"] if file and file["path"] else "no name"
        whole = self.split or "the data set"
        which = f"image {number} ({path}) of {whole}"
        if not file or (file["bytes"] is None and not file["path"]):
            raise MmardError(
                f"the picture of row {number} of {whole} is missing; put one there, or leave it out: data.on_error=skip"
            )
        try:
            if file["bytes"] is None and "://" in path:
                raise MmardError("it is an address, and nothing is fetched for a picture; put its bytes into the table")
            return self._pixels(self.feature.decode_example(file))
        except MmardError as e:
            raise MmardError(f"{which}: {e}") from e
        except Exception as e:  # each file format has its own kinds of failure; all mean that this one is broken
            raise MmardError(
                f"{which} cannot be decoded: {_reason(e, file)}; put a whole file in its place, or leave it out: "
                "data.on_error=skip"
            ) from e

    def _pixels(self, picture: Any) -> NDArray[np.uint8]:
        """Convert a picture to its array (H, W, C)."""
        plain = eight_bits(picture, self.notes)
        if self.channels == 3 and plain.mode == "L":
            self.notes.say(COLOURABLE)
        plain = plain.convert("RGB" if self.channels == 3 else "L")
        if picture.format in FILMS and getattr(picture, "n_frames", 1) > 1:  # now, because to count them moves the file
            self.notes.say("some images have several frames, of which the first is taken")
        plain = fitted(plain, self.fit)
        return np.asarray(plain).reshape(plain.height, plain.width, self.channels)


def eight_bits(picture: Any, notes: Notes) -> Any:
    """Convert a Pillow picture to the mode L or RGB, scaled by its mode, transparency laid on white.

    Raises:
        MmardError: for pixels without a known range.
    """
    from PIL import Image

    mode = picture.mode
    if mode.startswith("I;16") or (mode == "I" and picture.format in SIXTEEN_BITS):
        notes.say("16-bit images are scaled to 8 bits: 65535 becomes 255")
        levels = np.asarray(picture).astype(np.int64)
        return Image.fromarray(((levels * 255 + 32767) // 65535).clip(0, 255).astype(np.uint8))
    if mode == "F":
        levels = np.asarray(picture)
        if not (levels.min() >= 0 and levels.max() <= 1):  # also for NaN
            raise MmardError(
                f"its float pixels lie in [{levels.min():g}, {levels.max():g}], expected [0, 1]; divide them by their largest "
                "value in all images, and save them again"
            )
        notes.say("float images are scaled to 8 bits: 1.0 becomes 255")
        return Image.fromarray(np.round(levels * 255).astype(np.uint8))
    if mode not in PLAIN:
        raise MmardError(f"pixels of the mode {mode!r} have no known range; save them as 8-bit or 16-bit PNG")
    if picture.has_transparency_data:
        whole = picture.convert("RGBA")
        if whole.getextrema()[3][0] < 255:
            notes.say("transparent images are laid on white")
            flat = Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole)
            return flat.convert("L" if mode in GREY else "RGB")
    return picture.convert("L" if mode in GREY else "RGB")


def _reason(e: Exception, file: Any) -> str:
    """Tell why a picture cannot be decoded."""
    if type(e).__name__ != "UnidentifiedImageError":
        return first_line(e)
    size = Path(file["path"]).stat().st_size if file["bytes"] is None else len(file["bytes"])
    return "it is no picture" if size else "it is empty (0 bytes)"


def _is_grey(file: Any, mode: str | None) -> bool:
    """Tell whether a picture is grey by its header; one that cannot be read counts as grey and is refused when decoded."""
    from PIL import Image

    try:
        with Image.open(file["path"] if file["bytes"] is None else io.BytesIO(file["bytes"])) as picture:
            mode = mode or picture.mode
            if mode == "P" and picture.palette is not None:
                colours = np.frombuffer(picture.palette.tobytes(), np.uint8)
                colours = colours[: len(colours) // 3 * 3].reshape(-1, 3)
                return picture.palette.mode == "RGB" and bool((colours == colours[:, :1]).all())
            return mode in GREY or mode.startswith("I;16")
    except Exception:  # each file format has its own kinds of failure
        return True
