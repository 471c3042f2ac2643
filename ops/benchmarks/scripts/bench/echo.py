"""A little of everything that a job leaves."""

from jobs import Job


class Echo(Job):
    """One line of log, and an output."""

    def execute(self) -> dict[str, object]:
        """Description: Logs a line and returns its arguments.
        Arguments: {}
        Category: bench
        Author: Pulzar
        """
        self.log("here they are")
        return dict(self.arguments)
