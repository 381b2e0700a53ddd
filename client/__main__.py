"""`python -m client` is `python client/predict.py`; `python -m client doctor` is `client.doctor`."""

import sys
from collections.abc import Sequence

from train import cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names, by default a prediction."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] == ["doctor"]:
        from client import doctor

        return doctor.main(arguments[1:])
    from client import predict

    return predict.main(arguments)


if __name__ == "__main__":
    sys.exit(cli.run(main))
