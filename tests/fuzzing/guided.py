"""Fuzz the model server by coverage, with libFuzzer: `python -m tests.fuzzing.guided --cases 100000`.

libFuzzer keeps what reaches something new of the server's code, and changes it further: see `fuzzing.inside`.
"""

import argparse
import random
import subprocess
import sys
import tempfile
from pathlib import Path


def main() -> int:
    """Return 0 if every case was answered as it should be, 6 if one wasn't, which is then saved."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing.guided", description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000, help="how many")
    parser.add_argument("--seed", type=int, default=random.randrange(2**31), help="what they are drawn from")
    parser.add_argument(
        "--failures", type=Path, default=Path("fuzz-failures"), help="where a failure is saved"
    )
    parser.add_argument(
        "--replay", type=Path, metavar="FILE", help="send that failure again, and nothing else"
    )
    options = parser.parse_args()
    options.failures.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.fuzzing.inside"]
    # libFuzzer ends its process, come what may: so it is another, and this one cleans up.
    with tempfile.TemporaryDirectory(prefix="tfship-fuzz-") as folder:
        done = subprocess.run(
            [
                *command,
                folder,
                *map(str, (options.cases, options.seed, options.failures, options.replay or "")),
            ],
            check=False,
        )
    if done.returncode:
        print(f"FAILED, seed {options.seed}: see above; if a case is to blame, it is in {options.failures}")
    return 6 if done.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
