"""`python -m node.extract DIR KEY`: one value out of a restored data directory, to standard output.

The directory must not be in use. Its index is built from its log first, which takes some seconds for each million keys.
The exit status is 1 when the value is not there or damaged.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from contextlib import closing
from pathlib import Path

from broker import keys, settings
from broker.errors import PulzarError
from node.storage.reader import Reader
from node.storage.storage import Storage

_CHUNK_BYTES = 1 << 20


def main() -> int:
    """Write the value of a key; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m node.extract", description="One value out of a data directory.")
    parser.add_argument("directory", type=Path, metavar="DIR", help="a restored data directory that nobody uses")
    parser.add_argument("key", metavar="KEY")
    given = parser.parse_args()
    if not (given.directory / "log").is_dir():
        parser.error(f"{given.directory} is no data directory of a node: it has no log")
    try:
        config = settings.Settings(volume=dataclasses.replace(settings.Volume(), dir=str(given.directory), reserve=0))
        Storage.open(config).close()
        with closing(Reader(given.directory)) as reader:
            found = reader.get(keys.encode(keys.check(given.key)))
            if found is None:
                print(f"{given.directory} has no key {given.key}", file=sys.stderr)
                return 1
            with closing(found):
                for offset in range(0, found.size, _CHUNK_BYTES):
                    sys.stdout.buffer.write(found.pread(_CHUNK_BYTES, offset))
        sys.stdout.flush()
    except PulzarError as error:
        print(f"{given.key} can't be read: {error}", file=sys.stderr)
        return 1
    except BlockingIOError:
        print(f"{given.directory} is in use; restore into another directory", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
