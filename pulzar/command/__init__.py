"""The command line `pulzar`."""
