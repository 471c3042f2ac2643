"""What all screens of the web page share."""
