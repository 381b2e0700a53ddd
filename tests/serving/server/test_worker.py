"""What a worker process does besides answering."""

import os
import platform
import subprocess
import sys

import pytest

from serving_fixtures import ROOT
from tfship.serving.server import worker_process

_FRAGMENTED = """
import threading, time
from tfship.serving.server import worker

def resident():
    return int(open("/proc/self/statm").read().split()[1])

pieces = [bytearray(b"x" * 100_000) for _ in range(1000)]
most = resident()
# What is freed lies between pieces that stay.
pieces = pieces[::20]
assert resident() > most * 0.9, "glibc has given it back by itself"
worker._TRIM_SECONDS = 0.05
threading.Thread(target=worker._trim_memory, daemon=True).start()
while resident() > most * 0.7:
    time.sleep(0.05)
assert all(each == b"x" * 100_000 for each in pieces)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have their own ways")
def test_memory_that_is_free_between_what_stays_goes_back_to_the_system() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FRAGMENTED],
        cwd=ROOT,
        env={**os.environ, **worker_process._ENVIRONMENT},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
