"""The file of secrets, and what keeps them out of sight."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from broker import masks
from broker.masks import MaskedStream, Masks
from jobs.errors import BadSecrets
from jobs.secret_file import SecretFile

ROOT = Path(__file__).parents[2]
TEXT = """
# who may have what
[reports, billing]
DB = postgres://u:p=1;x@h/d  # all of it
KEY = -----BEGIN-----
  a line of the key
  -----END-----

[variables reports]
PGPASSWORD = tr0ub4dor

[*]
TOKEN = abcd-efgh
DB = the one for others

[variables *]
PROXY = http://u:p@proxy
"""


def write(directory: Path, text: str, mode: int = 0o600) -> str:
    file = directory / "secrets"
    file.unlink(missing_ok=True)
    file.write_text(text)
    file.chmod(mode)
    return str(file)


def test_a_folder_has_its_own_secrets_and_those_of_all(tmp_path: Path) -> None:
    file = SecretFile(write(tmp_path, TEXT))
    reports, billing, others = (file.of(name) for name in ("reports", "billing", "others"))
    assert reports.known == {
        "DB": "postgres://u:p=1;x@h/d  # all of it",
        "KEY": "-----BEGIN-----\na line of the key\n-----END-----",
        "PGPASSWORD": "tr0ub4dor",
        "TOKEN": "abcd-efgh",
        "PROXY": "http://u:p@proxy",
    }
    assert reports.variables == ("PGPASSWORD", "PROXY")
    assert billing.known.keys() == {"DB", "KEY", "TOKEN", "PROXY"}
    assert billing.variables == ("PROXY",)
    assert others == ({"TOKEN": "abcd-efgh", "DB": "the one for others", "PROXY": "http://u:p@proxy"}, ("PROXY",))
    assert SecretFile("").of("reports") == ({}, ())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("DB = hidden-value\n", "line 1: a section like [reports] must come first"),
        ("[a]\nhidden-value\n", "line 2: neither [folder, folder] nor NAME = value"),
        ("[a]\nDB = hidden-value\nDB = hidden-value\n", "line 3: what is there stands above already"),
        ("[a]\nX = hidden-value\n[a]\nY = hidden-value\n", "line 3: what is there stands above already"),
        ("[a]\nX = hidden-value\n[a, b]\nX = hidden-value\n", "X is given twice for the folder a"),
        ("[a/b]\nDB = hidden-value\n", "[a/b] names no folders of scripts"),
        ("[a]\nD-B = hidden-value\n", "'D-B' is no name of a secret"),
        ("[a]\nPULZAR_X = hidden-value\n", "'PULZAR_X' is no name of a secret"),
        ("[a]\nDB = abc\n", "DB for a has fewer than 4 characters"),
        ("[a]\nDB =\n", "DB for a has fewer than 4 characters"),
    ],
)
def test_a_file_that_can_not_be_used_is_refused_without_its_text(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(BadSecrets) as refused:
        SecretFile(write(tmp_path, text))
    assert reason in str(refused.value)
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(BadSecrets, match=f"its mode is {mode:o}.; chmod 600 it"):
        SecretFile(write(tmp_path, TEXT, mode))


def test_what_is_no_file_of_text_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "binary").write_bytes(b"[a]\nDB = \xff\xff\xff\xff\n")
    (tmp_path / "binary").chmod(0o600)
    for name, reason in (
        ("pipe", "is no file"),
        ("none", "No such file"),
        ("binary", "not in UTF-8"),
        (".", "Is a directory"),
    ):
        with pytest.raises(BadSecrets, match=reason):
            SecretFile(str(tmp_path / name))


def test_a_changed_file_counts_at_once_and_a_bad_one_as_it_was(tmp_path: Path) -> None:
    file = SecretFile(write(tmp_path, "[a]\nDB = first\n"))
    write(tmp_path, "[a]\nDB = second\n")
    assert file.of("a").known == {"DB": "second"}
    assert not file.problem
    write(tmp_path, "[a]\nDB = third\n", 0o644)
    assert file.of("a").known == {"DB": "second"}
    assert "chmod 600" in file.problem
    (tmp_path / "secrets").unlink()
    assert file.of("a").known == {"DB": "second"}
    assert "No such file" in file.problem
    write(tmp_path, "[b]\nDB = fourth\n")
    assert file.of("a").known == {}
    assert file.values() == {"fourth"}
    assert not file.problem


NASTY = 'p"ä\\ß w/%'


def test_secrets_are_masked_however_they_are_written() -> None:
    hiding = Masks([NASTY, "abcd"])
    for text in (
        NASTY,
        json.dumps(NASTY)[1:-1],
        json.dumps(NASTY, ensure_ascii=False)[1:-1],
        repr(NASTY)[1:-1],
        quote(NASTY),
    ):
        assert hiding.text(f"<{text}>") == "<***>"
    assert hiding.text("abc abcd \ud800") == "abc *** \ud800"
    assert masks.of(frozenset()) is None


def test_lines_of_a_long_secret_are_masked_too() -> None:
    hiding = Masks(["-----BEGIN-----\na line of the key\nx\n"])
    assert hiding.text("  a line of the key, x") == "  ***, x"


def test_masked_json_stays_json() -> None:
    hiding = Masks(["12345678", NASTY])
    value = {"a": [12345678, 1.5, None, True, f"x{NASTY}"], f"{NASTY}": 9123456789}
    masked = json.loads(hiding.json(json.dumps(value).encode()))
    assert masked == {"a": ["***", 1.5, None, True, "x***"], "***": "***"}
    assert hiding.json(b'{"a":  1}') == b'{"a":  1}'
    assert hiding.json(b"no json 12345678") == b"no json ***"
    assert json.loads(hiding.json(b'["\\ud800", 12345678]')) == ["\ud800", "***"]


@pytest.mark.parametrize("secrets", [["abcd"], ["abcd", "abcdefgh"], ["xxab", "abcd"], ["aaaa"], ["abab", "babab"]])
def test_a_log_in_any_pieces_shows_no_secret(secrets: list[str]) -> None:
    text = b"abc abcd abcdefgh abcdefg xxabcd aaaaaaaab ababab babababab abc"
    hiding = Masks(secrets)
    whole = hiding.mask(text)
    for size in (1, 2, 3, 5, 8, len(text)):
        stream = MaskedStream(hiding)
        pieces = [stream.feed(text[start : start + size]) for start in range(0, len(text), size)]
        assert b"".join(pieces) + stream.end() == whole, size


def test_nothing_is_kept_back_that_can_be_no_secret() -> None:
    stream = MaskedStream(Masks(["abcd"]))
    assert stream.feed(b"line\nab") == b"line\n"
    assert stream.feed(b"x") == b"abx"
    assert stream.feed(b"abc") == b""
    assert stream.end() == b"abc"


def test_a_run_by_hand_has_them_from_a_file_or_from_its_environment(tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/show.py").write_text(
        "import os, sys\nfrom jobs import run\nprint(run.secret('PGPASSWORD'), os.environ.get('PGPASSWORD'), sys.argv[1:])\n"
    )

    def show(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "jobs", "run", "--dir", str(tmp_path), *options]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | environment)

    file = write(tmp_path, TEXT)
    words = ("reports/show", "{}", "--", "--count", "5")
    assert show("--secrets", file, *words).stdout == "tr0ub4dor tr0ub4dor ['--count', '5']\n"
    assert show(*words, PGPASSWORD="mine").stdout == "mine mine ['--count', '5']\n"
    assert "there is no environment variable PGPASSWORD, which stands for the secret here" in show(*words).stderr
    (tmp_path / "secrets").chmod(0o644)
    refused = show("--secrets", file, *words)
    assert (refused.returncode, "chmod 600" in refused.stderr) == (2, True)
