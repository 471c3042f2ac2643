"""The contract between master and nodes, and the only code that both import."""

VERSION = "0.1.0"

MOST_REPLICAS = 8  # nodes that one value may be stored on
