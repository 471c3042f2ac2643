"""Screens of jobs: the catalog of scripts, launching, one job."""
