"""A line of bash as far as it is typed: the words that a command gets, and how what completes the last one is written.

bash hands words over as they stand on the line, with their quotes, and broken at `:` and `=`. What it puts in place of
the last one begins behind the last such character.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_SPECIAL = re.compile(r"([^\w@%+,./:=-])", re.ASCII)


class Line(NamedTuple):
    """What is typed."""

    words: list[str]
    """Without quotes; the last one is the one to complete."""
    kept: int
    """So many characters at the beginning of the last word stay on the line."""
    quoted: bool
    """The last word stands in quotes that are not closed."""

    def written(self, word: str) -> str:
        """What bash is to put in, so that the last word becomes `word`."""
        rest = word[self.kept :]
        return rest if self.quoted else _SPECIAL.sub(r"\\\1", rest)


def read(text: str, breaks: str) -> Line:
    """The words in the text. `breaks`: the characters at which bash breaks words, those of COMP_WORDBREAKS."""
    words, word = [], ""
    begun, quote, opened, kept = False, "", 0, 0
    position = 0
    while position < len(text):
        letter = text[position]
        position += 1
        if quote == "'" or (quote == '"' and letter not in '"\\'):
            if letter == quote:
                quote = ""
            else:
                word += letter
        elif letter == "\\":
            word += text[position : position + 1]
            position += 1
            begun = True
        elif letter in "\"'":
            quote = "" if quote else letter
            begun, opened = True, len(word)
        elif letter.isspace():
            if begun:
                words.append(word)
            word, begun, kept = "", False, 0
        else:
            word += letter
            begun = True
            if letter in breaks:
                kept = len(word)
    return Line([*words, word], opened if quote else kept, bool(quote))
