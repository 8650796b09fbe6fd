"""Pictures that stay on disk: a memory-mapped column of encoded images, decoded a batch at a time."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmard.core.errors import MmardError, first_line

CURE = "give data.size=64 or another size"


class Pictures:
    """One image column of a Hugging Face data set. Nothing is decoded before it is asked for, but one for the shape.

    Args:
        rows: the data set, its Arrow files memory-mapped.
        column: name of its image column.
        size: every picture becomes size×size (shorter side resized, then the centre); None: all are of one size.
        first: the number of a picture that will be used, which gives the shape.

    Attributes:
        shape: (H, W, 3), of every picture.

    Raises:
        MmardError: here and from `decode`, for a picture that cannot be decoded or is of another shape.
    """

    def __init__(self, rows: Any, column: str, size: int | None, first: int = 0) -> None:
        self.column, self.size, self.feature, self.split = column, size, rows.features[column], rows.split
        encoded = type(self.feature)(mode=self.feature.mode, decode=False)
        self.encoded = rows.select_columns([column]).cast_column(column, encoded)
        self.shape: tuple[int, ...] = self._one(first, self.encoded[first][column]).shape

    def decode(self, numbers: Sequence[int]) -> NDArray[np.uint8]:
        """The pictures with these numbers, (B, H, W, 3); may be called from several threads at once."""
        pixels = np.empty((len(numbers), *self.shape), np.uint8)
        for place, (number, file) in enumerate(zip(numbers, self.encoded[numbers][self.column], strict=True)):
            picture = self._one(number, file)
            if picture.shape != self.shape:
                sizes = ", ".join(f"{w}×{h}" for h, w, _ in (self.shape, picture.shape))
                raise MmardError(f"the images have several sizes ({sizes} ...); {CURE}")
            pixels[place] = picture
        return pixels

    def _one(self, number: int, file: Any) -> NDArray[np.uint8]:
        try:
            return _pixels(self.feature.decode_example(file), self.size)
        except Exception as e:  # each file format has its own kinds of failure; all mean that this one is broken
            path = file["path"] if file and file["path"] else "no name"
            raise MmardError(
                f"image {number} ({path}) of {self.split} cannot be decoded: {first_line(e)}; put a whole file in its place"
            ) from e


def _pixels(picture: Any, size: int | None) -> NDArray[np.uint8]:
    """(H, W, 3)."""
    picture = picture.convert("RGB")
    if size is not None and picture.size != (size, size):
        from PIL import Image, ImageOps

        picture = ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(picture)
