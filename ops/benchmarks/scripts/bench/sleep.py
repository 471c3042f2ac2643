"""Takes a slot for a while, and no processor time."""

import time

from jobs import Job


class Sleep(Job):
    """Longer than its time it takes only for what a job costs."""

    def execute(self) -> None:
        """Description: Sleeps.
        Arguments: {"seconds": "float"}
        Category: bench
        Author: Pulzar
        """
        time.sleep(self.arguments["seconds"])
