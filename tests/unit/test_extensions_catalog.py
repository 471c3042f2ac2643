"""What the page of extensions says of them, and what it shows of their answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from master.extensions import catalog
from master.extensions.errors import Failed
from master.web.ui import extensions
from master.web.ui.extensions import SHOWN_CHARACTERS, answer_of
from tests.support import ROOT

PICTURE = "data:image/png;base64,iVBORw0KGgo="


def test_those_that_come_with_pulzar_are_described() -> None:
    found = {one.name: one for one in catalog.describe_all(ROOT / "extensions")}
    assert list(found) == ["example", "image", "imagematching", "ocr", "search"]
    assert not any(one.problem for one in found.values())
    assert {name for name, one in found.items() if one.takes_file} == {"image", "imagematching", "ocr"}
    assert set(found["search"].parameters) == {"eq", "gt", "lt", "limit", "prefix"}
    # A class that is made from another one has its parameters.
    assert found["imagematching"].parameters == found["image"].parameters == ("image_url", "percent")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("class Odd(:\n", "odd.py, line 1: "),
        ("class Other:\n    pass\n", "odd.py has no class Odd"),
        ("\0", "odd.py"),
        ("-" * 20_000 + "1\n", "odd.py"),
        (f"'''{'x' * (1 << 20)}'''", "more than 1048576 bytes"),
        ("from extensions.odd import Odd as Base\nclass Odd(Base):\n    pass\n", ""),
        ("from elsewhere import Odd\n", ""),
    ],
)
def test_a_file_that_is_odd_is_listed_and_never_run(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "odd.py").write_text(text)
    (tmp_path / "_helper.py").write_text("raise SystemExit")
    (tmp_path / "No-Name.py").write_text("raise SystemExit")
    (found,) = catalog.describe_all(tmp_path)
    assert found.name == "odd"
    assert problem in found.problem
    assert bool(found.problem) == bool(problem)


def test_an_edit_is_seen_at_once(tmp_path: Path) -> None:
    file = tmp_path / "new.py"
    file.write_text('"""One."""\nclass New:\n    pass\n')
    assert catalog.describe(tmp_path, "new").summary == "One."
    file.write_text('"""Another."""\nclass New:\n    pass\n')
    assert catalog.describe(tmp_path, "new").summary == "Another."
    file.unlink()
    with pytest.raises(Failed):
        catalog.describe(tmp_path, "new")
    assert catalog.describe_all(tmp_path / "nowhere") == []


def body(data: object) -> bytes:
    return json.dumps({"data": data, "msg": "ok", "status": "ok"}).encode()


def test_texts_with_lines_and_pictures_are_shown_apart() -> None:
    found = answer_of(body({"text": "a\nb", "n": 1, "pages": [{"scan": PICTURE}]}))
    assert found.texts == [("text", "a\nb")]
    assert found.pictures == [("pages.0.scan", PICTURE)]
    assert PICTURE not in found.text
    assert '"n": 1' in found.text
    assert not found.cut


@pytest.mark.parametrize(
    "value",
    [
        "data:image/svg+xml;base64,AAAA",
        "data:text/html;base64,AAAA",
        PICTURE + '"><script>',
        "javascript:x",
        f" {PICTURE}",
    ],
)
def test_only_pictures_that_run_nothing_are_drawn(value: str) -> None:
    assert answer_of(body([value])).pictures == []


def test_a_long_answer_is_shown_by_its_beginning() -> None:
    found = answer_of(body(["x" * 50] * 10_000))
    assert (len(found.text), found.texts, found.cut) == (SHOWN_CHARACTERS, [], True)
    # One that was cut on its way is no JSON any more.
    found = answer_of(body(["x" * 50] * 10_000)[:100_000])
    assert found.cut
    assert found.text.startswith('["xxx')


def test_the_line_for_a_shell_is_one_word_for_each_part() -> None:
    line = extensions.curl("http://h/extension/a?x='$(id)'", file=True, token=True)
    assert line == """curl -H "Authorization: Bearer $PULZAR_TOKEN" -T FILE 'http://h/extension/a?x='\\''$(id)'\\'''"""
