"""Measurements of one thing each: server load, soak, client startup, photographs, training time, zoo."""
