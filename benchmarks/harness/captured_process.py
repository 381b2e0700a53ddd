"""Child processes whose output is captured."""

import os
import subprocess
from collections.abc import Mapping, Sequence

from tfship.train.common import interruption

__all__ = ["last_lines", "run"]


def run(
    command: Sequence[str], seconds: float, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command and return its exit code and output; Ctrl-C ends the wait.

    `environment` is added to this process's. Raises subprocess.TimeoutExpired after `seconds`.
    """
    with interruption.waiting():
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
            env={**os.environ, **(environment or {})},
        )


def last_lines(output: str, count: int = 3) -> str:
    """Return the last `count` lines of an output in one line."""
    return " | ".join(output.strip().splitlines()[-count:]) or "no output"
