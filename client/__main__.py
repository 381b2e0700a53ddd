"""`python -m client` is `python client/predict.py`; `python -m client doctor` finds out why a server doesn't answer."""

import importlib
import sys
from collections.abc import Sequence

from train import cli, interruption


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names, or else predict; return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["doctor"]:
        return _main("doctor", arguments[1:])
    return _main("predict", arguments)


def _main(module: str, argv: Sequence[str]) -> int:
    # Imported by its name: neither command pays for the other's imports.
    code: int = importlib.import_module(f"client.{module}").main(argv)
    return code


def command() -> int:
    """Run the command line and return its exit code; what `tfship-client` calls."""
    interruption.catch(at_once=True)
    return cli.run(main)


if __name__ == "__main__":
    sys.exit(command())
