"""Pictures that a program gives one by one: of Pillow, or arrays, to pixels of one shape."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmard.data.encoded import CURE, Fit, Notes, eight_bits, fitted
from mmard.data.labels import as_array
from mmard.utils.errors import MmardError, first_line


def is_picture(one: object) -> bool:
    """Tell whether a value is a picture of Pillow."""
    return hasattr(one, "getbands")


def channels_first(pixels: NDArray[Any]) -> NDArray[Any]:
    """View images with their channels last, or with none, as (N, C, H, W)."""
    if pixels.ndim == 3:
        return pixels[:, None]
    last = pixels.ndim == 4 and pixels.shape[1] not in (1, 3) and pixels.shape[3] in (1, 3, 4)
    return pixels.transpose(0, 3, 1, 2) if last else pixels


def pixels_of(picture: Any, number: int, fit: Fit, notes: Notes) -> NDArray[Any]:
    """Convert one picture, of Pillow or an array, to (C, H, W); the former is turned as its EXIF says, as files are.

    Raises:
        MmardError: for what is no picture, or cannot be decoded, with its number.
    """
    if is_picture(picture):
        try:
            return _of_pillow(picture, fit, notes)
        except MmardError as e:
            raise MmardError(f"item {number} of the data set: {e}") from e
        except Exception as e:  # each file format has its own kinds of failure
            raise MmardError(
                f"the picture of item {number} cannot be decoded: {first_line(e)}; leave that item out"
            ) from e
    array = as_array(picture, f"the pixels of item {number}")
    first = channels_first(array[None])[0] if array.ndim in (2, 3) else array
    if first.ndim != 3 or len(first) not in (1, 3):
        raise MmardError(
            f"item {number} has a picture of shape {array.shape}, expected (C, H, W), (H, W, C) or (H, W), and 1 or 3 channels"
        )
    return first


def _of_pillow(picture: Any, fit: Fit, notes: Notes) -> NDArray[np.uint8]:
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(picture)
    upright.format = picture.format  # by which the range of some pixels is known
    levels = np.asarray(fitted(eight_bits(upright, notes), fit))
    return levels[None] if levels.ndim == 2 else levels.transpose(2, 0, 1)


def stacked(pictures: Sequence[NDArray[Any]], resizable: bool) -> NDArray[Any]:
    """Join pictures (C, H, W) to (N, C, H, W); grey ones among coloured ones get three equal channels.

    Args:
        resizable: ``data.size`` makes them one size.

    Raises:
        MmardError: for pictures of several sizes.
    """
    if len(shapes := {picture.shape[1:] for picture in pictures}) > 1:
        some = ", ".join(f"{w}×{h}" for h, w in sorted(shapes)[:3])
        cure = CURE if resizable else "resize them to one size"
        raise MmardError(f"the images have several sizes ({some} ...), expected one; {cure}")
    most = max(len(picture) for picture in pictures)
    return np.stack([np.broadcast_to(p, (most, *p.shape[1:])) for p in pictures])
