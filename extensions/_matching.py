"""Finds a picture in a larger one: the place where they are most alike, and how much they are.

Likeness is the correlation coefficient over all colours, OpenCV's TM_CCOEFF_NORMED. 1.0 is the same but for brightness
and contrast. A template of one colour has no correlation; there likeness is the distance of the colours, TM_SQDIFF,
from 1.0 (the same) to 0.0 (black and white). Both are sums over the template. They are made piece by piece, so that
memory is bounded for pictures of any size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from extensions._pictures import Pixels

Floats = NDArray[np.float64]

_REGION_PIXELS = 8_000_000  # of the larger picture at a time; some 30 bytes each
_ONE_COLOUR = 1  # shades that the pixels of one colour may differ by
_EQUAL = 1e-6  # likenesses that differ by less are equal, and the first place counts
_FLAT = 0.5  # sum of squares; one pixel that is one shade off its surroundings has more

# As many extensions run at once as there are cores.
cv2.setNumThreads(1)


class Match(NamedTuple):
    """Left and upper edge of the template in the base, in pixels, and the likeness (0 to 1)."""

    x: int
    y: int
    score: float


def find(base: Pixels, template: Pixels) -> Match | None:
    """The best place, the first of equal ones; None when the template does not fit into the base.

    Both are height × width × 1 (grey) or 3 (colours); when only one has colours, grey is compared.
    """
    if any(inner > outer for inner, outer in zip(template.shape[:2], base.shape[:2], strict=True)):
        return None
    if base.shape[2] != template.shape[2]:
        base, template = _grey(base), _grey(template)
    ranges = template.max(axis=(0, 1)).astype(int) - template.min(axis=(0, 1))
    rows = _distances(base, template) if ranges.max() <= _ONE_COLOUR else _correlations(base, template)
    best = Match(0, 0, float("-inf"))
    for y, row in enumerate(rows):
        most = float(row.max())
        if most > best.score + _EQUAL:
            best = Match(int(np.argmax(row >= most - _EQUAL)), y, most)
    return best._replace(score=min(1.0, max(0.0, best.score)))


def _grey(picture: Pixels) -> Pixels:
    if picture.shape[2] == 1:
        return picture
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[:, :, np.newaxis], np.uint8)


def _distances(base: Pixels, template: Pixels) -> Iterator[Floats]:
    """The likeness to a template of one colour, row by row."""
    height, width, channels = template.shape
    colour = template.mean(axis=(0, 1))
    for sums, squares in _windows(base, height, width):
        total = (squares - 2 * colour * sums).sum(axis=1) / (height * width) + (colour**2).sum()
        yield 1 - np.sqrt(np.maximum(0, total) / channels) / 255


def _correlations(base: Pixels, template: Pixels) -> Iterator[Floats]:
    """The correlation coefficient, row by row."""
    height, width = template.shape[:2]
    size = height * width
    own_sums, own_squares = next(_windows(template, height, width))
    own = float((own_squares - own_sums**2 / size).sum())
    products = _products(base, template, own_sums[0] / size)
    for product, (sums, squares) in zip(products, _windows(base, height, width), strict=True):
        varied = (squares - sums**2 / size).sum(axis=1)
        flat = varied < _FLAT
        row = product / np.sqrt(own * np.where(flat, 1, varied))
        row[flat] = 0  # of one colour, and the template is not
        yield row


def _products(base: Pixels, template: Pixels, mean: Floats) -> Iterator[NDArray[np.float32]]:
    """The sum of the products of base and template at each place, both less the template's mean, row by row."""
    height, width, channels = template.shape
    rows = base.shape[0] - height + 1
    together = max(2, _REGION_PIXELS // base.shape[1])
    band = min(height, together // 2)
    strip = together - band + 1
    for y in range(0, rows, strip):
        behind = min(rows, y + strip)
        total = np.zeros((behind - y, base.shape[1] - width + 1), np.float32)
        for channel in range(channels):
            for top in range(0, height, band):
                piece = template[top : top + band, :, channel].astype(np.float32)
                region = base[y + top : behind - 1 + top + len(piece), :, channel].astype(np.float32)
                piece -= np.float32(mean[channel])
                region -= np.float32(mean[channel])
                total += cv2.matchTemplate(region, piece, cv2.TM_CCORR)
        yield from total


def _windows(base: Pixels, height: int, width: int) -> Iterator[tuple[Floats, Floats]]:
    """Sums of the values, and of their squares, below the template at each place: width × channels, row by row."""
    squared = np.arange(256, dtype=np.int64) ** 2
    sums = base[:height].sum(axis=0, dtype=np.int64)
    squares = sum((squared[row] for row in base[:height]), np.zeros_like(sums))
    for y in range(base.shape[0] - height + 1):
        if y:
            below, above = base[y + height - 1], base[y - 1]
            sums += below
            sums -= above
            squares += squared[below]
            squares -= squared[above]
        yield _across(sums, width), _across(squares, width)


def _across(columns: NDArray[np.int64], width: int) -> Floats:
    totals = np.cumsum(columns, axis=0)
    result = totals[width - 1 :].astype(np.float64)
    result[1:] -= totals[:-width]
    return result
