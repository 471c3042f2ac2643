"""Faults done to real clusters: kill, cut, fill, corrupt. Read `load.py` first."""
