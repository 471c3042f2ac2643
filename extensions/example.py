"""`/extension/example/{argument}/…?parameter=…`: returns its arguments and parameters. A place to begin from."""

from __future__ import annotations

from typing import Any

from extensions import Extension


class Example(Extension):
    """Arguments and parameters, as an extension gets them."""

    def execute(self) -> dict[str, Any]:
        """`{"my_arg": ["a", "b"], "my_params": {"x": ["1"]}}`."""
        return {"my_arg": self.arguments, "my_params": self.params}
