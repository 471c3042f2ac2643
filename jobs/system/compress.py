"""Compresses a stored value with one of the system's programs."""

import pathlib
import subprocess

from jobs import Job

PROGRAMS = {
    "gzip": (("gzip", "-c", "-9"), ".gz"),
    "bzip2": (("bzip2", "-c", "-9"), ".bz2"),
    "xz": (("xz", "-c", "-6"), ".xz"),
}


class Compress(Job):
    """Shows a subprocess: what it writes to standard error stands in the log, and it ends when the job is cancelled."""

    def execute(self) -> dict[str, object]:
        """Description: Compresses a stored value (pulzar_data) and stores the result beside it.
        It is called key.gz, key.bz2 or key.xz.
        Arguments: {"program": "str", "store": "bool"}
        Category: system
        Author: Pulzar

        `program` is gzip (when nothing is said), bzip2 or xz. With `"store": false` only the sizes are told.
        """
        if self.data_path is None:
            raise ValueError("there is nothing to compress; give a key as pulzar_data")
        program = self.arguments.get("program", "gzip")
        if program not in PROGRAMS:
            raise ValueError(f"program = {program!r} is none of {', '.join(PROGRAMS)}")
        command, ending = PROGRAMS[program]
        target = pathlib.Path("compressed")  # in the scratch directory
        with self.data_path.open("rb") as source, target.open("wb") as out:
            subprocess.run(command, stdin=source, stdout=out, check=True)
        before, after = self.data_path.stat().st_size, target.stat().st_size
        self.log(f"{self.data_key}: {before} bytes, with {program} {after}")
        result: dict[str, object] = {"bytes": before, "compressed": after}
        if self.arguments.get("store", True):
            result["url"] = self.store(target, self.data_key + ending, overwrite=True)
        return result
