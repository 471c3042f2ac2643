"""A job with a line of log and an output."""

from jobs import Job


class Echo(Job):
    """Logs a line and returns its arguments."""

    def execute(self) -> dict[str, object]:
        """Description: Logs a line and returns its arguments.
        Arguments: {}
        Category: bench
        Author: Pulzar
        """
        self.log("here they are")
        return dict(self.arguments)
