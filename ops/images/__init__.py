"""The trial of the images: builds them and runs them as compose.yaml says."""
