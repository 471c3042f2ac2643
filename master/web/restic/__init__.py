"""The backend for restic."""
