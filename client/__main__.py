"""`python -m client` is `python client/predict.py`."""

import sys

from client.predict import main
from train import cli


def command() -> int:
    """Run the command line and return its exit code; what `tfship-client` calls."""
    return cli.run(main)


if __name__ == "__main__":
    sys.exit(command())
