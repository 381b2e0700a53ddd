"""Command-line arguments and output of the client's commands."""
