"""Which cluster the command line means, its completion, and what it prints."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

import broker
import pulzar
from broker.settings import load
from pulzar.command import bash_line, completion, settings
from pulzar.command.main import COMMANDS, main
from pulzar.command.parser import make
from pulzar.command.screen import Screen, printable, size_text
from pulzar.errors import BadRequest
from pulzar.workers import each

FILE = """\
[office]
url = https://store.example:31414
token = secret
ca = /etc/ca.pem

[lab]
url = http://lab:31414

[DEFAULT]
cluster = office
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / ".config" / "pulzar" / "config"
    path.parent.mkdir(parents=True)
    path.write_text(FILE)
    path.chmod(0o600)
    return path


def test_a_cluster_is_chosen_by_its_name(config: Path, tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    office = settings.Place("https://store.example:31414", "secret", "/etc/ca.pem")
    assert settings.choose("", "", None, home) == office
    assert settings.choose("", "lab", None, home | {"PULZAR_TOKEN": "t"}) == ("http://lab:31414", "t", "")
    assert settings.choose("", "", None, home | {"PULZAR_CLUSTER": "lab"}).url == "http://lab:31414"
    # A name that is given goes before an address of the environment
    assert settings.choose("", "office", None, home | {"PULZAR_URL": "http://x"}) == office


def test_the_token_of_a_section_goes_to_no_other_address(config: Path, tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    assert settings.choose("http://other", "", config, home) == ("http://other", "", "")
    assert settings.choose("", "", config, home | {"PULZAR_URL": "http://other"}) == ("http://other", "", "")


def test_without_anything_it_is_this_machine(tmp_path: Path) -> None:
    assert settings.choose("", "", None, {"HOME": str(tmp_path)}) == ("http://localhost:31414", "", "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a]\nurl=http://a\n[b]\nurl=http://b\n", "several clusters"),
        ("[a]\ntoken=x\n", "no url"),
        ("[a]\nurl=http://a\nhost=x\n", "host is no setting"),
        ("url=x\n", "can't be read"),
        ("[DEFAULT]\ncluster=c\n", "no cluster 'c'"),
    ],
)
def test_a_file_with_a_mistake_is_told(config: Path, tmp_path: Path, text: str, message: str) -> None:
    config.write_text(text)
    with pytest.raises(BadRequest, match=message):
        settings.choose("", "", None, {"HOME": str(tmp_path)})


def test_a_token_that_others_may_read_is_not_used(config: Path) -> None:
    config.chmod(0o640)
    with pytest.raises(BadRequest, match="chmod 600"):
        settings.read(config)
    config.write_text("[lab]\nurl = http://lab\n")
    assert settings.read(config) == {"lab": {"url": "http://lab"}}


def test_master_and_nodes_start_with_the_variables_of_the_command_line() -> None:
    assert load(None, {"PULZAR_URL": "http://x", "PULZAR_CLUSTER": "x"}) == load(None, {})


def test_it_has_the_version_of_the_cluster() -> None:
    assert pulzar.VERSION == broker.VERSION


@pytest.mark.parametrize("arguments", [["--help"], ["sync", "--help"], ["schedule", "add", "--help"]])
def test_every_command_has_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    assert "usage: pulzar" in capsys.readouterr().out


def test_every_command_is_there() -> None:
    text = make().format_help()
    assert [name for name in COMMANDS if f"\n    {name} " not in text] == []


@pytest.mark.parametrize(
    "arguments", [["nothing"], ["put"], ["logs", "x"], ["--patience", "-1", "ls"], ["ls", "--jsno"]]
)
def test_wrong_use_is_one_line_and_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_cluster_that_is_away_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--url", "http://127.0.0.1:1", "--patience", "0.01", "ls"]) == 69
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "127.0.0.1:1 can't be reached" in said
    assert main(["--url", "http://127.0.0.1:1", "ls", "--json", "--patience", "0.01"]) == 69
    assert '"kind": "Unavailable"' in capsys.readouterr().err


def candidates(*words: str) -> list[str]:
    return completion.candidates(list(words), lambda before, prefix: ["docs/", "docs.txt"] if prefix == "doc" else [])


def test_completion() -> None:
    assert "sync" in candidates("s")
    assert candidates("schedule", "p") == ["pause"]
    assert "--delete" in candidates("sync", "--d")
    assert candidates("jobs", "--state", "c") == ["completed", "cancelled"]
    assert candidates("cat", "doc") == ["docs/", "docs.txt"]
    assert candidates("put", "doc") == ["docs/", "docs.txt", "__files__"]
    assert candidates("sync", ":doc") == [":docs/", ":docs.txt"]
    assert candidates("sync", "doc") == ["__files__"]
    assert candidates("cat", "x") == []
    assert all("__complete" in text for text in completion.SCRIPTS.values())


@pytest.mark.parametrize(
    ("typed", "words", "word", "written"),
    [
        ("pulzar ca", ["pulzar", "ca"], "cat", "cat"),
        ("pulzar cat ", ["pulzar", "cat", ""], "a b", "a\\ b"),
        ("pulzar  sync :do", ["pulzar", "sync", ":do"], ":docs/", "docs/"),
        ("pulzar cat a:b=c", ["pulzar", "cat", "a:b=c"], "a:b=cd e", "cd\\ e"),
        ("pulzar cat a\\ b", ["pulzar", "cat", "a b"], "a bc", "a\\ bc"),
        ("pulzar cat a\\", ["pulzar", "cat", "a"], "ab", "ab"),
        ("pulzar cat 'a b'c", ["pulzar", "cat", "a bc"], "a bcd", "a\\ bcd"),
        ("pulzar cat a'b c", ["pulzar", "cat", "ab c"], "ab cd", "b cd"),
        ("pulzar cat 'a b", ["pulzar", "cat", "a b"], "a b & c", "a b & c"),
        ('pulzar cat "a \\$', ["pulzar", "cat", "a $"], "a $HOME", "a $HOME"),
        ("A=1 pulzar 'x' \"\" $(rm)", ["A=1", "pulzar", "x", "", "$(rm)"], "$(rm)", "rm\\)"),
    ],
)
def test_a_line_of_bash_is_read_as_bash_would(typed: str, words: list[str], word: str, written: str) -> None:
    line = bash_line.read(typed, " \t\n\"'@><=;|&(:")
    assert line.words == words
    assert line.written(word) == written


def test_what_would_control_the_terminal_is_shown_as_text() -> None:
    assert printable("a\x1b[2Jb\nc\r") == "a\\x1b[2Jb\nc\\r"
    assert printable("\udcff") == "\\udcff"


def test_progress_is_for_a_terminal() -> None:
    out = io.StringIO()
    with Screen(False, out, out).progress("put", 10) as progress:
        progress.add(5)
    assert out.getvalue() == ""
    assert size_text(1536) == "1.5 KiB"


def test_work_on_threads_ends_with_the_first_that_can_not_be_reached() -> None:
    done: list[int] = []
    failures = each(range(100), done.append, 4, lambda: None)
    assert (sorted(done), failures) == (list(range(100)), [])

    def bad(number: int) -> None:
        raise pulzar.Unavailable("away") if number else pulzar.NotFound("gone")

    failures = each(range(100), bad, 1, lambda: None)
    assert [(failure.item, str(failure.error)) for failure in failures] == [(0, "gone"), (1, "away")]

    def broken(number: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        each(range(100), broken, 2, lambda: None)
