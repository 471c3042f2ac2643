"""Programs of the command line: CLIENT OPERATION URL FILE; prints one line of JSON (README.md of tests/clients).

Each is called as a person would call it in a shell; `status` is the last one that the program shows.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

STATUS = re.compile(
    r"HTTP/[\d.]+ (\d{3})|STATUS (\d{3})|\b(?:moved|failed|error|ERROR): (\d{3})\b|\berror: (\d{3}):|\bstatus=(\d{3})\b"
)

CURL = 'curl -sS -w "\\nSTATUS %{http_code}\\n"'
HTTP = "http --ignore-stdin --print=hb"
PIPED = "http --print=hb"


def curl(options: str) -> dict[str, str]:
    """Curl with these options."""
    return {
        "put": f'{CURL} {options} -T "$2" "$1"',
        "stream": f'cat "$2" | {CURL} {options} -T - "$1"',
        "form": f'{CURL} {options} -X PUT -F "file=@$2" "$1"',
        "get": f'{CURL} {options} -o "$2" "$1"',
        "resume": f'{CURL} {options} -C - -o "$2" "$1"',
        "head": f'{CURL} {options} -I "$1"',
        "again": f'{CURL} {options} -T "$2" "$1" --next {CURL[5:]} {options} -o "$2" "${{1/add_key/get_key}}"',
    }


def httpie(options: str) -> dict[str, str]:
    """HTTPie with these options."""
    return {
        "put": f'{HTTP} {options} PUT "$1" "@$2"',
        "stream": f'cat "$2" | {PIPED} {options} --chunked PUT "$1"',
        "form": f'{HTTP} {options} -f PUT "$1" "file@$2"',
        "get": f'{HTTP} {options} --download -o "$2" "$1"'.replace("--print=hb ", "--print=h "),
        "resume": f'{HTTP} {options} --download --continue -o "$2" "$1"'.replace("--print=hb ", "--print=h "),
        "head": f'{HTTP} {options} HEAD "$1"',
    }


def lftp(get: str) -> dict[str, str]:
    """Lftp, whose commands come as one argument."""
    return {
        "put": 'lftp -c "set net:max-retries 1; put -O ${1%/*} $2 -o ${1##*/}"',
        "get": f'lftp -c "set net:max-retries 1; {get} $1 -o $2"',
        "resume": 'lftp -c "set net:max-retries 1; get -c $1 -o $2"',
    }


COMMANDS: dict[str, dict[str, str]] = {
    "curl": curl("-L"),
    "curl-plain": curl(""),
    "curl-unexpecting": curl("-L -H Expect:"),
    "curl-data": {"put": f'{CURL} -L -X PUT --data-binary "@$2" "$1"'},
    "curl-range": {"put": f'{CURL} -L -C 1000 -T "$2" "$1"'},
    "curl-continue": {"put": f'{CURL} -L -C - -T "$2" "$1"'},
    "wget": {
        "put": 'wget -S -O - --method=PUT --body-file="$2" "$1"',
        "get": 'wget -S -O "$2" "$1"',
        "resume": 'wget -S -c -O "$2" "$1"',
        "head": 'wget -S --spider "$1"',
    },
    "wget2": {"head": 'wget2 -S --spider "$1"', "get": 'wget2 -S -O "$2" "$1"', "resume": 'wget2 -S -c -O "$2" "$1"'},
    "wget2-chunks": {"get": 'wget2 -S --chunk-size=512K -O "$2" "$1"'},
    "httpie": httpie(""),
    "httpie-follow": httpie("--follow"),
    "aria2": {
        "get": 'aria2c --allow-overwrite=true -d "${2%/*}" -o "${2##*/}" "$1"',
        "resume": 'aria2c -c --auto-file-renaming=false -d "${2%/*}" -o "${2##*/}" "$1"',
    },
    "aria2-parts": {"get": 'aria2c -x4 -s4 -k1M --allow-overwrite=true -d "${2%/*}" -o "${2##*/}" "$1"'},
    "lftp": lftp("get"),
    "lftp-parts": {"get": lftp("pget -n4")["get"]},
    "rclone": {"get": 'rclone --config /dev/null copyurl "$1" "$2"'},
    "rclone-http": {
        "get": 'rclone --config /dev/null --http-url "${1%/*}" copyto ":http:${1##*/}" "$2"',
    },
}


def run(command: str, url: str, file: str) -> tuple[int, str]:
    """The exit status and what was printed."""
    done = subprocess.run(
        ["bash", "-c", command, "bash", url, file],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        env=os.environ | {"LC_ALL": "C.UTF-8"},
    )
    return done.returncode, done.stdout.decode(errors="replace")


def main(client: str, operation: str, url: str, file: str) -> None:
    """Do it, and say how it looked."""
    exit_status, text = run(COMMANDS[client][operation], url, file)
    statuses = ["".join(found) for found in STATUS.findall(text)]
    status = int(statuses[-1]) if statuses and statuses[-1] != "000" else None
    if status is None and exit_status == 0:
        status = 201 if operation in ("put", "stream", "form") else 200  # it tells none, and is content
    print(json.dumps({"status": status, "said": f"exit {exit_status}: {text[-600:].strip()}"}))


if __name__ == "__main__":
    main(*sys.argv[1:])
