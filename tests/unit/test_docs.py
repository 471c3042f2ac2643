"""The form of every page: lines and sentences of a readable length, links that lead somewhere, files that exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST_COLUMNS = 120
MOST_WORDS = 30
MOST_README_LINES = 150
# CHANGELOG.md is a list of what changed, written as it changed.
PAGES = sorted(
    path
    for path in ROOT.rglob("*.md")
    if path.name != "CHANGELOG.md"
    and not any(part.startswith(".") or part == "node_modules" for part in path.relative_to(ROOT).parts)
)
FENCED = re.compile(r"^ *(```|~~~).*?^ *\1 *$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
NAMED_FILE = re.compile(r"`((?:broker|master|node|ops|tests|docs)/[\w./-]*\w\.(?:py|md|conf|json|yaml|mjs))`")
# A sentence ends with these, before a space and what may begin the next one.
END = re.compile(r"(?<=[.!?:;])[)\"*]*\s+(?=[A-Z0-9`\"(*\[])")


def prose(text: str) -> str:
    """The text without fenced blocks and tables; their lines are left empty, so that numbers of lines stay."""
    text = FENCED.sub(lambda block: "\n" * block[0].count("\n"), text)
    return "\n".join("" if line.lstrip().startswith(("|", "<!--")) else line for line in text.split("\n"))


def sentences(text: str) -> Iterator[str]:
    """Each sentence of a page. A heading, an item of a list and a paragraph end a sentence."""
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )|\n(?=#)|(?<=\n)(?=#)", prose(text)):
        plain = LINK.sub(lambda link: link[0][1:].partition("]")[0], " ".join(paragraph.split()))
        # What stands in backticks is one word, whatever is in it
        yield from END.split(re.sub(r"`[^`]*`", "`code`", plain))


def anchors(path: Path) -> set[str]:
    """The names that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_rules_see_what_they_forbid() -> None:
    # Given a page with a long line in prose, in a table and in code
    long = "word " * 36
    page = f"# Title\n\n{long}\n\n| {long} |\n\n```bash\n{long}\n```\n- One item.\n- Another: `{long}`.\n"
    # Then only the one in prose counts, as a line and as a sentence
    assert [line for line in prose(page).split("\n") if len(line) > MOST_COLUMNS] == [long, f"- Another: `{long}`."]
    assert [len(sentence.split()) for sentence in sentences(page) if len(sentence.split()) > MOST_WORDS] == [36]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
class TestPage:
    """Every page of the project, CHANGELOG.md apart."""

    def test_no_line_of_prose_is_too_long(self, path: Path) -> None:
        lines = enumerate(prose(path.read_text()).split("\n"), 1)
        assert not [f"{number}: {len(line)} columns" for number, line in lines if len(line) > MOST_COLUMNS]

    def test_no_sentence_is_too_long(self, path: Path) -> None:
        long = [text for text in sentences(path.read_text()) if len(text.split()) > MOST_WORDS]
        assert not [f"{len(text.split())} words: {text}" for text in long]

    def test_its_links_lead_somewhere(self, path: Path) -> None:
        broken = []
        for target in LINK.findall(FENCED.sub("", path.read_text())):
            if "://" in target:
                continue
            name, _, anchor = target.partition("#")
            page = path.parent / name if name else path
            if not page.exists() or (anchor and anchor not in anchors(page)):
                broken.append(target)
        assert not broken

    def test_the_files_it_names_exist(self, path: Path) -> None:
        # Files of the project; a folder's own README may name its files from within
        names = NAMED_FILE.findall(FENCED.sub("", path.read_text()))
        assert not [name for name in names if not (ROOT / name).exists() and not (path.parent / name).exists()]


def test_the_readme_is_one_page() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= MOST_README_LINES


def test_the_pictures_of_the_readme_are_small_and_all_there_are() -> None:
    folder = ROOT / "docs" / "pictures"
    pictures = sorted(folder.iterdir())
    assert [f"docs/pictures/{picture.name}" for picture in pictures] == sorted(
        re.findall(r"!\[[^\]]+\]\(([^)]+)\)", (ROOT / "README.md").read_text())
    )
    assert len(pictures) == 2
    assert all(picture.read_bytes().startswith(b"\x89PNG\r\n") for picture in pictures)
    assert sum(picture.stat().st_size for picture in pictures) < 120_000


def test_the_index_of_the_docs_names_every_page() -> None:
    named = set(LINK.findall((ROOT / "docs" / "README.md").read_text()))
    assert {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"} <= named
