"""Nothing: what is left is what a job costs."""

from jobs import Job


class Noop(Job):
    """Neither log nor output."""

    def execute(self) -> None:
        """Description: Does nothing.
        Arguments: {}
        Category: bench
        Author: Pulzar
        """
