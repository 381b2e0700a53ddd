"""What `pip install` calls tfship: commands, with the packages that they run out of everyone's way.

`train`, `export` and `serving` are names that other projects use, too. Installed, they lie in a folder that only
these commands put on their path.
"""

import sys
from pathlib import Path

__all__ = ["model_server"]


def model_server() -> int:
    """Run `tfship-model-server`, which is `python -m serving`."""
    sys.path.insert(0, str(Path(__file__).resolve().parent / "packages"))
    from serving.__main__ import main
    from train import cli

    return cli.run(main)
