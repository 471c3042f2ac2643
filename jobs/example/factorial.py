"""The factorial of a number."""

import math

from jobs import Job


class Factorial(Job):
    """A job in its simplest form: what `execute` returns is the output."""

    def execute(self) -> int:
        """Description: The factorial of a number from 0 to 1000.
        Arguments: {"number": "int"}
        Category: example
        Author: Pulzar
        """
        number = self.arguments["number"]
        if not isinstance(number, int) or not 0 <= number <= 1000:
            raise ValueError(f"number = {number!r} is no integer from 0 to 1000")
        result = math.factorial(number)
        self.log(f"{number}! has {len(str(result))} digits")
        return result
