"""The web page: a module for each screen."""
