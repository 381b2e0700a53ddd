"""Measurement: timers, load generators, child processes."""
