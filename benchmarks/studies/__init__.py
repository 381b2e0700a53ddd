"""Separate studies: server load, soak, client startup, digits, training time, zoo."""
