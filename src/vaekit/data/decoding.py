"""One image file to one array: what its header says, its pixels, and the size they are brought to."""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np

from vaekit.errors import require

if TYPE_CHECKING:
    from PIL.Image import Image

Fit = Literal["crop", "resize", "pad"]

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif")

_ORIENTATION = 0x0112
_BITS_PER_SAMPLE = 258
_CHANNELS = {"1": 1, "L": 1, "I;16": 1, "I;16B": 1, "I;16L": 1, "I;16N": 1, "LA": 4, "La": 4, "PA": 4, "RGBA": 4, "RGBa": 4}
_COLOURS = {"RGB", "CMYK", "YCbCr", "LAB", "HSV", "RGBX"}
# cv2 gives 16-bit colour as it lies; these bring each EXIF orientation upright (rows and columns only are turned).
_UPRIGHT = {2: (0, False, True), 3: (2, False, False), 4: (0, True, False), 5: (1, True, False), 6: (3, False, False)}
_UPRIGHT |= {7: (3, True, False), 8: (1, False, False)}

READ_ERRORS = (
    *(OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error, KeyError, IndexError, TypeError),
    *(AttributeError, ArithmeticError, MemoryError, NotImplementedError, RuntimeError),
)
"""What Pillow and zipfile raise on damaged files."""


class BadImageError(ValueError):
    """A file that is an image, but none that can be used; says why."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a file's header says, upright and in the channels that it is read in."""

    height: int
    width: int
    channels: int
    bits: int
    orientation: int = 1


@dataclass(frozen=True, slots=True)
class Frame:
    """What every image is brought to.

    Attributes:
        height, width: in pixels.
        channels: 1, 3 or 4.
        bits: 8 or 16.
        fit: how another size is brought to this one.
    """

    height: int
    width: int
    channels: int
    bits: int
    fit: Fit = "crop"


def read_header(file: BinaryIO, max_pixels: int) -> Header:
    """What the header says; no pixel is decoded.

    Raises:
        BadImageError: if there are more than `max_pixels` pixels, or they are of a kind that is not read.
    """
    pillow = require("PIL.Image", "image", "Reading images")
    try:
        with pillow.open(file, formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise BadImageError(f"{width} x {height} pixels, more than max_pixels={max_pixels}")
            channels = _channels_of(image)
            orientation = _orientation_of(image)
            bits = _bits_of(image, file)
    except pillow.DecompressionBombError as error:
        raise BadImageError(f"more than max_pixels={max_pixels} pixels") from error
    if orientation >= 5:
        width, height = height, width
    return Header(height, width, channels, bits, orientation)


def decode(file: BinaryIO, header: Header, frame: Frame) -> np.ndarray:
    """The pixels (C, H, W) of a file in the given frame.

    Palettes become RGB (RGBA with transparency), grey with alpha RGBA, CMYK RGB; EXIF orientation is applied.
    """
    deep = header.bits == 16 and header.channels > 1
    pixels = _deep_pixels(file, header.orientation) if deep else _pixels(file, header, frame)
    pixels = to_bits(to_channels(pixels, frame.channels), frame.bits)
    return np.moveaxis(fit_size(pixels, frame.height, frame.width, frame.fit), -1, 0)


def to_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """(H, W, C) with another number of channels: grey is ITU-R 601 luma, alpha is dropped, or added opaque."""
    found = pixels.shape[-1]
    if channels == found:
        return pixels
    if channels == 1:
        red, green, blue = (pixels[..., i].astype(np.uint32) for i in range(3))
        return ((red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16).astype(pixels.dtype)[..., None]
    colour = np.repeat(pixels, 3, axis=-1) if found == 1 else pixels[..., :3]
    if channels == 3:
        return colour
    opaque = np.full((*pixels.shape[:2], 1), np.iinfo(pixels.dtype).max, pixels.dtype)
    return np.concatenate([colour, opaque], axis=-1)


def to_bits(pixels: np.ndarray, bits: int) -> np.ndarray:
    """8 bits to 16 by v * 257, 16 bits to 8 by round(v / 257).

    Example:
        >>> to_bits(np.array([0, 128, 32896, 65535], "uint16"), 8).tolist()
        [0, 0, 128, 255]
    """
    if bits == 16 and pixels.dtype == np.uint8:
        return pixels.astype(np.uint16) * np.uint16(257)
    if bits == 8 and pixels.dtype == np.uint16:
        return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return pixels


def fit_size(pixels: np.ndarray, height: int, width: int, fit: Fit) -> np.ndarray:
    """(H, W, C) brought to (height, width, C): cut (`crop`), stretched (`resize`), or with a black border (`pad`)."""
    h, w = pixels.shape[:2]
    if (h, w) == (height, width):
        return pixels
    if fit == "crop":
        # The part of the target's shape is cut first, so that only pixels that stay are resized.
        scale = max(height / h, width / w)
        cut_h, cut_w = min(h, max(1, round(height / scale))), min(w, max(1, round(width / scale)))
        top, left = (h - cut_h) // 2, (w - cut_w) // 2
        return _resize(pixels[top : top + cut_h, left : left + cut_w], height, width)
    if fit == "resize":
        return _resize(pixels, height, width)
    scale = min(height / h, width / w)
    inner_h, inner_w = min(height, max(1, round(h * scale))), min(width, max(1, round(w * scale)))
    out = np.zeros((height, width, pixels.shape[-1]), pixels.dtype)
    top, left = (height - inner_h) // 2, (width - inner_w) // 2
    out[top : top + inner_h, left : left + inner_w] = _resize(pixels, inner_h, inner_w)
    return out


def _resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    cv2 = require("cv2", "image", "Resizing images")
    h, w = pixels.shape[:2]
    if (h, w) == (height, width):
        return pixels
    how = cv2.INTER_AREA if height <= h and width <= w else cv2.INTER_LINEAR
    resized = cv2.resize(np.ascontiguousarray(pixels), (width, height), interpolation=how)
    return resized.reshape(height, width, pixels.shape[-1])


def _channels_of(image: Image) -> int:
    if image.mode == "P":
        return 4 if "transparency" in image.info else 3
    if image.mode in _COLOURS:
        return 3
    if image.mode not in _CHANNELS:
        raise BadImageError(f"pixels of the mode {image.mode!r} (32-bit), where 8 or 16 bits are read")
    return _CHANNELS[image.mode]


def _orientation_of(image: Image) -> int:
    """The EXIF orientation that is still to be applied: Pillow turns a TIFF file on its own."""
    if image.format == "TIFF" or "exif" not in image.info:
        return 1
    found = image.getexif().get(_ORIENTATION, 1)
    return found if found in range(1, 9) else 1


def _bits_of(image: Any, file: BinaryIO) -> int:
    """Pillow shows 16-bit colour as 8 bits, so the file itself is asked."""
    if image.mode.startswith("I;16"):
        return 16
    if image.format == "PNG":
        file.seek(24)
        return 16 if file.read(1) == b"\x10" else 8
    if image.format == "TIFF":
        return 16 if 16 in image.tag_v2.get(_BITS_PER_SAMPLE, (8,)) else 8
    return 8


def _pixels(file: BinaryIO, header: Header, frame: Frame) -> np.ndarray:
    pillow = require("PIL.Image", "image", "Reading images")
    with pillow.open(file, formats=FORMATS) as image:
        if image.format == "JPEG":
            _draft(image, header, frame)
        if image.mode == "P":
            image = image.convert("RGBA" if "transparency" in image.info else "RGB")
        elif image.mode not in ("L", "RGB", "RGBA") and not image.mode.startswith("I;16"):
            image = image.convert({1: "L", 3: "RGB", 4: "RGBA"}[header.channels])
        if header.orientation != 1:
            image = require("PIL.ImageOps", "image", "Reading images").exif_transpose(image)
        pixels = np.asarray(image)
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize == 2:
        pixels = pixels.astype(np.uint16)  # big-endian files come in their own byte order
    return pixels.reshape(*pixels.shape[:2], -1)


def _draft(image: Any, header: Header, frame: Frame) -> None:
    """Lets a JPEG be decoded at 1/2, 1/4 or 1/8, where that still covers the frame."""
    scales = frame.height / header.height, frame.width / header.width
    scale = min(scales) if frame.fit == "pad" else max(scales)
    if scale < 0.5:
        image.draft(None, (math.ceil(image.size[0] * scale), math.ceil(image.size[1] * scale)))


def _deep_pixels(file: BinaryIO, orientation: int) -> np.ndarray:
    cv2 = require("cv2", "image", "Reading 16-bit colour images")
    pixels = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3:
        raise BadImageError("16-bit colour that cannot be decoded")
    pixels = pixels[..., [2, 1, 0, 3][: pixels.shape[-1]]]
    quarters, upside, mirrored = _UPRIGHT.get(orientation, (0, False, False))
    pixels = np.rot90(pixels, quarters)
    pixels = pixels[::-1] if upside else pixels
    return pixels[:, ::-1] if mirrored else pixels
