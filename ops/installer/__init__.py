"""`ops/install`: master and node as services of a Debian with systemd. Needs Debian's python3 and nothing else."""
