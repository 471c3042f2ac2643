"""The tests; ops/test runs them."""
