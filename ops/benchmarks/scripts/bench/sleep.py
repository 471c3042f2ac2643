"""A job that takes a slot for a while, and no processor time."""

import time

from jobs import Job


class Sleep(Job):
    """Sleeps: what it takes longer is the cost of a job."""

    def execute(self) -> None:
        """Description: Sleeps.
        Arguments: {"seconds": "float"}
        Category: bench
        Author: Pulzar
        """
        time.sleep(self.arguments["seconds"])
