"""A job that does nothing: what it takes is the cost of a job."""

from jobs import Job


class Noop(Job):
    """Has neither log nor output."""

    def execute(self) -> None:
        """Description: Does nothing.
        Arguments: {}
        Category: bench
        Author: Pulzar
        """
