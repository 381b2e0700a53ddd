"""`python -m client` is `python client/predict.py`."""

import sys

from client.predict import main
from train import cli

if __name__ == "__main__":
    sys.exit(cli.run(main))
