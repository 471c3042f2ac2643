"""Opens pictures that users send. Refuses what is no picture, too large or damaged before it can do harm.

Pictures are rotated according to their EXIF data and have 8 bits for each colour. An animation gives its first frame. A
TIFF file may have several pages.
"""

from __future__ import annotations

import os
import resource
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from extensions._errors import Refused

MOST_PIXELS = 40_000_000  # A4 at 600 dpi has 35 million; a small file can claim billions
MOST_PAGES = 100
MOST_PIXELS_OF_PAGES = 400_000_000  # of all pages together: 46 of A4 at 300 dpi
MOST_SIDE = 32_000  # Tesseract takes 32,767, frame included
DECODING_BYTES = 768 << 20  # of memory; 40 million pixels take 652 MiB as WebP with transparency, else less
# Pillow knows more: some formats run other programs, and rare ones are tested less.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

Image.init()  # now, since a module that is loaded under the limit of memory may fail in any way

_MOST_FRAMES = 4 * MOST_PAGES  # of a TIFF file, with those that are no pages
_SUBFILE_TYPE = 254  # a tag of TIFF
_NO_PAGE = 1 | 4  # a smaller copy of another page, or its mask

# All that Pillow's decoders raise for damaged files.
_UNREADABLE = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, AttributeError),
    *(AssertionError, ZeroDivisionError, struct.error, zlib.error, Image.DecompressionBombError),
)

Pixels = NDArray[np.uint8]


def load(source: str | os.PathLike[str] | BinaryIO, what: str) -> Image.Image:
    """The picture in a file, decoded and upright; `what` names it in messages.

    Raises `Refused`, and `OSError` when the disk fails.
    """
    with _decoding(what), Image.open(source, formats=FORMATS) as opened:
        _check_size(opened, what)
        opened.load()
        return ImageOps.exif_transpose(opened)


def sent_pages(path: str | None) -> Iterator[Image.Image]:
    """The pages of a TIFF file that is the body of a PUT, in their order; any other picture is one page.

    Each is decoded when it is asked for. Raises `Refused`; when there are too many pages, before the first one.
    """
    path, what = _sent(path), "the picture sent"
    with _decoding(what):
        opened = Image.open(path, formats=FORMATS)
    with opened:
        with _decoding(what):
            numbers = _pages(opened, what)
        for number in numbers:
            name = what if len(numbers) == 1 else f"page {numbers.index(number) + 1} of {what}"
            with _decoding(name):
                opened.seek(number)
                opened.load()
                page = ImageOps.exif_transpose(opened)
            yield page


@contextmanager
def _decoding(what: str) -> Iterator[None]:
    """Bounds the memory, and turns what a decoder raises into `Refused`."""
    try:
        with _bounded():
            yield
    except MemoryError as error:
        raise Refused(400, f"{what} takes more than {DECODING_BYTES >> 20} MiB of memory to be read") from error
    except _UNREADABLE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # an error of the disk, not of the picture
        if isinstance(error, UnidentifiedImageError):
            raise Refused(400, f"{what} is no picture that can be read; {', '.join(FORMATS)} can be") from error
        raise Refused(400, f"{what} can't be read, it is damaged or cut short: {error}") from error


def sent(path: str | None) -> Image.Image:
    """The picture that is the body of a PUT. Raises `Refused`."""
    return load(_sent(path), "the picture sent")


def _sent(path: str | None) -> str:
    if path is None:
        raise Refused(400, "no picture was sent; PUT one, for example with curl -T picture.png")
    if not os.path.getsize(path):
        raise Refused(400, "the body is empty; PUT a picture, for example with curl -T picture.png")
    return path


def grey(picture: Image.Image) -> Image.Image:
    """The picture in shades of grey, for reading: with full contrast, also between transparent parts and the rest."""
    if picture.mode.startswith(("I", "F")):
        return Image.fromarray(_eight_bits(picture, stretch=True))
    if not picture.has_transparency_data:
        return picture.convert("RGB").convert("L")
    shades, opacity = picture.convert("RGBA").convert("LA").split()
    # White letters on a transparent ground would vanish on white.
    seen = shades.histogram(opacity.point(lambda value: 255 if value > 127 else 0))
    mean = sum(shade * count for shade, count in enumerate(seen)) / max(1, sum(seen))
    result = Image.new("L", picture.size, 0 if mean > 127 else 255)
    result.paste(shades, mask=opacity)
    return result


def pixels(picture: Image.Image) -> Pixels:
    """Height × width × 1 (grey) or 3 (red, green, blue). Transparent parts become white."""
    if picture.mode.startswith(("I", "F")):
        return _eight_bits(picture, stretch=False)[:, :, np.newaxis]
    if picture.has_transparency_data:
        seen = picture.convert("RGBA")
        on_white = Image.new("RGBA", seen.size, "white")
        on_white.alpha_composite(seen)
        return np.asarray(on_white.convert("RGB"))
    if picture.mode in ("1", "L"):
        return np.asarray(picture.convert("L"))[:, :, np.newaxis]
    return np.asarray(picture.convert("RGB"))


def _check_size(picture: Image.Image, what: str) -> None:
    width, height = picture.size
    if width * height > MOST_PIXELS or max(width, height) > MOST_SIDE:
        limit = f"{MOST_PIXELS:,} in all and {MOST_SIDE:,} a side are the limit"
        raise Refused(400, f"{what} has {width} x {height} pixels; {limit}")


def _pages(picture: Image.Image, what: str) -> list[int]:
    """The frames that are pages; raises `Refused` when they are too many or too large."""
    if picture.format != "TIFF":
        _check_size(picture, what)
        return [0]
    pages: list[int] = []
    total = 0
    for number in range(_MOST_FRAMES):
        try:
            picture.seek(number)
        except EOFError:  # there are no more frames
            break
        if number and picture.tag_v2.get(_SUBFILE_TYPE, 0) & _NO_PAGE:  # type: ignore[attr-defined]
            continue
        pages.append(number)
        total += picture.width * picture.height
        _check_size(picture, what if number == 0 else f"page {len(pages)} of {what}")
        if len(pages) > MOST_PAGES or total > MOST_PIXELS_OF_PAGES:
            limit = f"{MOST_PAGES} pages, or more than {MOST_PIXELS_OF_PAGES:,} pixels in all pages together"
            raise Refused(400, f"{what} has more than {limit}; send it in parts")
    return pages


@contextmanager
def _bounded() -> Iterator[None]:
    """Lets this process take `DECODING_BYTES` more memory; beyond that `MemoryError` is raised.

    The size of a picture does not show how much it takes. A TIFF file of 200 bytes and 100 x 100 pixels may have a tile
    that takes libtiff 2 GiB, in a way that Pillow does not see.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[0])
    limits = (pages * resource.getpagesize() + DECODING_BYTES, soft, hard)
    resource.setrlimit(resource.RLIMIT_AS, (min(limit for limit in limits if limit != resource.RLIM_INFINITY), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _eight_bits(picture: Image.Image, stretch: bool) -> Pixels:
    """A picture of 16 bits or more in 8 bits. Pillow's own conversion would make all above 255 white.

    With `stretch` the darkest shade becomes black and the lightest white. Else the lower 8 bits are dropped.
    """
    values: NDArray[Any] = np.nan_to_num(np.asarray(picture), posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 65535 and values.dtype.kind != "f" and not stretch:
        return np.asarray(values >> 8, np.uint8)
    scale = 255 / (high - low) if high > low else 0.0
    return np.asarray((values.astype(np.float32) - np.float32(low)) * np.float32(scale), np.uint8)
