"""The end of a process's output, for error messages."""

__all__ = ["last_lines"]


def last_lines(output: str, count: int = 3) -> str:
    """Return the last `count` lines of an output in one line."""
    return " | ".join(output.strip().splitlines()[-count:]) or "no output"
