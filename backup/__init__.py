"""Backups: the files of snapshots at a target, and back. A process of its own, `python -m backup`."""
