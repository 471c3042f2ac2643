"""The first Fibonacci numbers."""

from jobs import Job


class Fibonacci(Job):
    """Shows log lines, progress and an output set by hand."""

    def execute(self) -> None:
        """Description: The first Fibonacci numbers, up to 10000 of them.
        Arguments: {"count": "int"}
        Category: example
        Author: Pulzar
        """
        count = self.arguments.get("count", 10)
        if not isinstance(count, int) or not 1 <= count <= 10_000:
            raise ValueError(f"count = {count!r} is no integer from 1 to 10000")
        numbers = [0]
        following = 1
        while len(numbers) < count:
            numbers.append(following)
            following += numbers[-2]
            self.progress(len(numbers), count, "numbers")
        self.log(f"the last of {count} numbers is {numbers[-1]}")
        # JSON has no limit for numbers, but most of what reads it has.
        self.output([number if number < 1 << 53 else str(number) for number in numbers])
