"""The operator's tool: what `ops/manage.py` runs. Needs nothing but Python."""
