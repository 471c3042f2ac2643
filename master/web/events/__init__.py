"""Routes that wait: the stream of events, and reads of a key that is to change."""
