"""`PUT /extension/ocr/{image_name}?search=&invert=`: reads the text in a picture, or in the pages of a TIFF file, with Tesseract."""

from __future__ import annotations

import math
import os
from typing import Any

import pytesseract  # type: ignore[import-untyped]
from PIL import Image, ImageOps

from extensions import Extension, MissingLibrary, Refused
from extensions._parameters import switch, text
from extensions._pictures import MOST_SIDE, grey, sent_pages

# As many extensions run at once as there are cores; threads of Tesseract's own would only be in each other's way: four pages
# at once take 4 s on two cores like this, and 24 s with them.
os.environ.setdefault("OMP_THREAD_LIMIT", "1")

# Small letters are read better when they are larger: of drawn texts of 8 to 60 pixels, 45 of 50 came out right three times as
# large, and 30 as they were. Up to the size of a page (A4 at 300 dpi) that costs little.
_ENLARGED_PIXELS = 8_700_000
_MOST_TIMES = 3
_BETWEEN_PAGES = "\f"
_MARGIN = 10  # pixels; letters at the very edge are not found


class Ocr(Extension):
    """The name in the path says nothing: a picture is known by its content."""

    def execute(self) -> dict[str, Any]:
        """`{"text": "…", "pages": 1}`, and with `search` also `"contains": true|false`; raises `Refused`, `MissingLibrary`.

        The texts of pages have a form feed between them.
        """
        inverted, wanted = switch(self.params, "invert"), text(self.params, "search")
        texts: list[str] = []
        for page in sent_pages(self.file_path):
            picture = grey(page)
            texts.append(_read(_enlarged(ImageOps.invert(picture) if inverted else picture)))
        found = _BETWEEN_PAGES.join(texts)
        result: dict[str, Any] = {"text": found, "pages": len(texts)}
        if wanted is not None:
            result["contains"] = _plain(wanted) in _plain(found)
        return result


def _enlarged(picture: Image.Image) -> Image.Image:
    """The picture as large as is good for reading, in a frame of the colour of its corner."""
    by_area = math.isqrt(_ENLARGED_PIXELS // (picture.width * picture.height))
    times = min(_MOST_TIMES, by_area, MOST_SIDE // max(picture.size))
    if times > 1:
        picture = picture.resize((picture.width * times, picture.height * times), Image.Resampling.LANCZOS)
    corner = picture.crop((0, 0, 1, 1)).tobytes()[0]
    return ImageOps.expand(picture, _MARGIN, corner)


def _read(picture: Image.Image) -> str:
    try:
        return str(pytesseract.image_to_string(picture)).strip()
    except pytesseract.TesseractNotFoundError as error:
        raise MissingLibrary("Tesseract", "apt-get install tesseract-ocr") from error
    except pytesseract.TesseractError as error:
        raise Refused(400, f"Tesseract can't read the picture: {error.message}") from error


def _plain(words: str) -> str:
    """Without regard to case, and to where the lines end."""
    return " ".join(words.casefold().split())
