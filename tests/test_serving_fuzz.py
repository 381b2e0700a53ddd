"""Bad input, in the suite a little of it: see `fuzzing`, which does more of the same for a release."""

import random

from fuzzing.run import run
from fuzzing.target import target


def test_every_case_is_answered_and_no_worker_is_the_worse_for_it() -> None:
    with target(None, None, []) as server:
        start = random.randrange(2**32)
        print("seed", start)  # shown where it fails
        run(server, 1000, start)
        assert sum(server.statuses.values()) >= 1000
