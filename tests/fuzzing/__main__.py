"""Fuzz the model server for a release: `python -m tests.fuzzing --cases 100000`."""

import argparse
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hypothesis.errors import Flaky

from fuzzing.cases import Case
from fuzzing.run import KINDS, run
from fuzzing.target import target


def main() -> int:
    """Return 0 if every case was answered as it should be, 6 if one wasn't, which is then saved."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing", description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000, help="how many, of all kinds together")
    parser.add_argument("--kinds", default=",".join(KINDS), help="which, in turn")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="what they are drawn from")
    parser.add_argument("--models", type=Path, help="more models, for both runtimes: a folder of base paths")
    parser.add_argument("--recorded", type=Path, help="more SavedModels: a folder of base paths")
    parser.add_argument(
        "--failures", type=Path, default=Path("fuzz-failures"), help="where a failure is saved"
    )
    parser.add_argument(
        "--replay", type=Path, metavar="FILE", help="send that failure again, and nothing else"
    )
    options = parser.parse_args()
    begin = time.monotonic()

    def told(done: int) -> None:
        grown = ", ".join(f"{each / 2**20:+.0f} MiB" for each in server.growth())
        seconds = time.monotonic() - begin
        print(
            f"{done:,} cases in {seconds:.0f} s; slowest {server.slowest:.2f} s; workers {grown}", flush=True
        )

    with target(options.models, options.recorded, []) as server:
        try:
            if options.replay:
                server.check(Case.load(options.replay))
                server.check_health()
            else:
                run(server, options.cases, options.seed, options.kinds.split(","), told)
        except (AssertionError, Flaky) as failure:  # Flaky: it doesn't fail each time
            print(f"FAILED, seed {options.seed}: {str(failure)[:3000]}")
            if server.last:
                print(f"saved: {server.last.save(options.failures)}")
            return 6
        for (kind, outcome), count in sorted(server.statuses.items()):
            print(f"{kind:8} {outcome:24} {count:,}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
