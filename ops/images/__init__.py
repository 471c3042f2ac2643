"""Builds the images and tries them as compose.yaml runs them."""
