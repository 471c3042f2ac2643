"""A plain mirror of files, with a manifest for each snapshot."""
