"""A node: keeps values and serves them; runs jobs next to them."""
