"""Completion in bash, zsh and fish. The shell asks `pulzar __complete WORD…`; the last word is the one to complete.

bash asks `pulzar __complete_line COMMAND LINE BREAKS`, since it does not have the words as the command would get them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from pulzar.command import bash_line
from pulzar.command import parser as parsers
from pulzar.command.task import key_of

# What a positional argument is completed with: keys of the store, else files by the shell itself.
_KEYS = {"KEY", "KEY… [PATH]", "PREFIX", "TO", "FILE… KEY", "SOURCE", "TARGET"}
_FILES = {"FILE… KEY", "KEY… [PATH]", "SOURCE", "TARGET", "FILE"}
_MOST = 200  # candidates
FILES = "__files__"  # stands for files of this machine, which the shell finds itself

SCRIPTS = {
    "bash": """\
_pulzar() {
    local candidate
    COMPREPLY=()
    while IFS= read -r candidate; do
        if [ "$candidate" = __files__ ]; then
            while IFS= read -r candidate; do
                [ ! -d "$candidate" ] || candidate+=/
                COMPREPLY+=("$(printf %q "$candidate")")
            done < <(compgen -f -- "$2")
        else
            COMPREPLY+=("$candidate")
        fi
    done < <(pulzar __complete_line "$1" "${COMP_LINE:0:COMP_POINT}" "$COMP_WORDBREAKS" 2>/dev/null)
    [[ ${#COMPREPLY[@]} != 1 || ${COMPREPLY[0]} != */ ]] || compopt -o nospace
}
complete -F _pulzar pulzar
""",
    "zsh": """\
#compdef pulzar
_pulzar() {
    local -a found
    found=("${(@f)$(pulzar __complete "${(@Q)words[2,CURRENT]}" 2>/dev/null)}")
    if (( ${found[(I)__files__]} )); then
        found=("${(@)found:#__files__}")
        _files
    fi
    compadd -S '' -- "${(@)found:#}"
}
compdef _pulzar pulzar
""",
    "fish": """\
function __pulzar_complete
    set -l word (string unescape -- (commandline -ct)); or set word (commandline -ct)
    set -l words (commandline -opc) "$word"
    for candidate in (pulzar __complete $words[2..-1] 2>/dev/null)
        if test "$candidate" = __files__
            __fish_complete_path (commandline -ct)
        else
            echo $candidate
        end
    end
end
complete -c pulzar -f -a '(__pulzar_complete)'
""",
}

KeysBelow = Callable[[list[str], str], list[str]]


def candidates(words: list[str], keys: KeysBelow) -> list[str]:
    """What the last word may become. `FILES` stands for files of this machine.

    `keys` gets the words and a prefix, and gives keys and folders that begin so.
    """
    *before, word = words or [""]
    parser, options = _parser_at(before)
    if before and before[-1].startswith("-"):
        action = options.get(before[-1])
        if action is not None and action.nargs != 0:
            return _of_value(action, word, before, keys)
    if word.startswith("-"):
        return sorted(name for name in options if name.startswith(word) and name.startswith("--"))
    found: list[str] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return sorted(name for name in action.choices if name.startswith(word))
        if not action.option_strings:
            found += [each for each in _of_value(action, word, before, keys) if each not in found]
    return found


def _parser_at(words: list[str]) -> tuple[argparse.ArgumentParser, dict[str, argparse.Action]]:
    """The parser of the command that the words name, and its options."""
    parser: argparse.ArgumentParser = parsers.make()
    for word in words:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction) and word in action.choices:
                parser = action.choices[word]
                break
    return parser, {name: action for action in parser._actions for name in action.option_strings}


def _of_value(action: argparse.Action, word: str, before: list[str], keys: KeysBelow) -> list[str]:
    if action.choices:
        return [str(each) for each in action.choices if str(each).startswith(word)]
    shown = str(action.metavar)
    found: list[str] = []
    is_sync = shown in ("SOURCE", "TARGET")
    if shown in _KEYS and (word.startswith(":") or not is_sync):
        mark = ":" if is_sync else ""
        found += [mark + key for key in keys(before, key_of(word))][:_MOST]
    if shown in _FILES and not word.startswith(":"):
        found.append(FILES)
    return found


def script(shell: str) -> str:
    """What a shell reads to complete `pulzar`."""
    return SCRIPTS[shell]


def answer(arguments: list[str], keys: KeysBelow) -> list[str] | None:
    """What a shell that asks for candidates is told; None if the arguments are no such question."""
    if arguments[:1] == ["__complete"]:
        return candidates(arguments[1:], keys)
    if arguments[:1] != ["__complete_line"] or len(arguments) != 4:
        return None
    command, text, breaks = arguments[1:]
    line = bash_line.read(text, breaks)
    before = line.words.index(command) + 1 if command in line.words else 1
    return [each if each == FILES else line.written(each) for each in candidates(line.words[before:], keys)]
