"""Bad input, in the suite a little of it: see `fuzzing`, which does more of the same for a release."""

import random
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from fuzzing.run import run
from fuzzing.target import target
from serving_fixtures import ROOT


def test_every_case_is_answered_and_no_worker_is_the_worse_for_it() -> None:
    with target(None, None, []) as server:
        start = random.randrange(2**32)
        print("seed", start)  # shown where it fails
        run(server, 300, start)
        assert sum(server.statuses.values()) >= 300
        assert {kind for kind, _ in server.statuses} >= {"json", "http", "grpc", "v2", "reload", "frames"}


@pytest.mark.skipif(find_spec("atheris") is None, reason="Atheris has no wheel for this system")
def test_what_reaches_new_code_is_found_and_answered(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzzing.guided", "--cases=600", f"--failures={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    # It counts the server's own branches, and goes on from those that it found.
    found = re.search(r"Done (\d+) runs", done.stderr)
    assert found is not None
    assert int(found[1]) >= 600  # libFuzzer counts the first cases of its corpus in some runs
    assert "\tNEW    cov: " in done.stderr
    assert not list(tmp_path.iterdir())
