"""The master: decides and remembers. REST API, index, placement, and the controller behind them."""
