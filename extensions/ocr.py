"""`PUT /extension/ocr/{image_name}?search=&invert=`: reads the text in a picture, or in the pages of a TIFF file."""

from __future__ import annotations

import math
import os
from typing import Any

import pytesseract  # type: ignore[import-untyped]
from PIL import Image, ImageOps

from extensions import Extension, MissingLibrary, Refused
from extensions._parameters import switch, text
from extensions._pictures import MOST_SIDE, grey, sent_pages

# As many extensions run at once as there are cores, so threads of Tesseract's own only slow each other down.
# Four pages at once take 4 s on two cores without them, and 24 s with them.
os.environ.setdefault("OMP_THREAD_LIMIT", "1")

# Small letters are read better when they are enlarged. Of 50 drawn texts of 8 to 60 pixels, 45 came out right three
# times as large, 30 as they were. Up to the size of a page (A4 at 300 dpi) that costs little.
_ENLARGED_PIXELS = 8_700_000
_MOST_TIMES = 3
_BETWEEN_PAGES = "\f"
_MARGIN = 10  # pixels; Tesseract does not find letters at the very edge


class Ocr(Extension):
    """Reads a picture. The name in the path is ignored: the content shows what a picture is."""

    def execute(self) -> dict[str, Any]:
        """`{"text": "…", "pages": 1}`, and with `search` also `"contains": true|false`.

        A form feed stands between the texts of pages. Raises `Refused` or `MissingLibrary`.
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
    """The picture in the best size for reading, with a frame in the colour of its corner."""
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
    """The words in lower case with single blanks between them."""
    return " ".join(words.casefold().split())
