"""Separate studies: server load, soak, client startup, photographs, training time, zoo."""
