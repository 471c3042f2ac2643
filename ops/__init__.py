"""How Pulzar is set up, run, measured and looked after."""
