"""A job that does nothing, in a process that is used again: what it takes is the cost of a warm run."""

from jobs import Job


class Warm(Job):
    """Has neither log nor output."""

    reuse = 1000

    def execute(self) -> None:
        """Description: Does nothing, in a process that is used again.
        Arguments: {}
        Category: bench
        Author: Pulzar
        """
