import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfship.benchmarks.harness import load_generators
from tfship.train.common.errors import ResultError, TargetError, TfshipError

# What wrk 4.1.0 printed with wrk.lua; the latencies are shortened to four.
WRK = """\
Running 1s test @ http://127.0.0.1:40239/v1/models/none:predict
  1 threads and 1 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     9.31ms   19.88ms 121.75ms   91.65%
    Req/Sec   331.90    224.82   810.00     70.00%
  337 requests in 1.15s, 56.61KB read
  Non-2xx or 3xx responses: 337
Requests/sec:    292.94
Transfer/sec:     49.21KB
tfship latency 466 1
tfship latency 498 2
tfship latency 513 3
tfship latency 121749 1
tfship requests 337
tfship microseconds 1150392
tfship bytes 57964
tfship error-connect 0
tfship error-read 0
tfship error-write 0
tfship error-status 337
tfship error-timeout 0
"""
# h2load of nghttp2 1.52.0, and the first rows of its log.
H2LOAD = """\
starting benchmark...
spawning thread #0: 2 total client(s). Timing-based test with 0s of warm-up time and 1s of main duration.
Warm-up started for thread #0.
progress: 50% of clients started
progress: 100% of clients started
Warm-up phase is over for thread #0.
Main benchmark duration is started for thread #0.
Application protocol: h2c
Main benchmark duration is over for thread #0. Stopping all clients.
Stopped all clients for thread #0

finished in 1.00s, 973.00 req/s, 156.26KB/s
requests: 973 total, 975 started, 973 done, 973 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 973 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 156.26KB (160013) total, 3.00KB (3069) headers (space savings 96.11%), 99.77KB (102165) data
                     min         max         mean         sd        +/- sd
time for request:      310us     27.50ms      2.00ms      3.83ms    89.21%
time for connect:       45us        67us        56us        15us   100.00%
time to 1st byte:     1.75ms      2.10ms      1.93ms       244us   100.00%
req/s           :     483.57      488.54      486.05        3.51   100.00%
"""
LOG = "1795523183169467\t200\t7189\n1795523183169459\t200\t7819\n1795523183168881\t-1\t9079\n"

needs_generators = pytest.mark.skipif(
    shutil.which("wrk") is None or shutil.which("h2load") is None,
    reason="needs wrk and h2load: apt-get install wrk nghttp2-client",
)


def test_report_of_wrk() -> None:
    run = load_generators.parse_wrk(WRK)
    assert (run.requests, run.seconds, run.received) == (337, 1.150392, 57964)
    assert run.rate == pytest.approx(292.94, abs=0.01)
    np.testing.assert_array_equal(run.latencies, [466, 498, 498, 513, 513, 513, 121749])
    assert run.problem == "337 responses with an error status"
    assert load_generators.parse_wrk(WRK.replace("status 337", "status 0")).problem == ""
    nothing = WRK.replace("status 337", "status 0").replace("requests 337", "requests 0")
    assert load_generators.parse_wrk(nothing).problem == "no request got a response"


def test_report_of_h2load() -> None:
    run = load_generators.parse_h2load(H2LOAD, LOG, 1)
    assert (run.requests, run.rate, run.received, run.pending) == (973, 973, 102165, 2)
    assert run.problem == ""
    np.testing.assert_array_equal(run.latencies, [7189, 7819])
    bad = H2LOAD.replace("973 2xx, 0 3xx, 0 4xx", "900 2xx, 0 3xx, 73 4xx").replace("0 errored", "2 errored")
    assert (
        load_generators.parse_h2load(bad, LOG, 1).problem
        == "2 requests ended in an error, 73 responses with an HTTP error"
    )


@given(st.integers(0, len(WRK) - 2), st.integers(0, H2LOAD.index(" data\n")))
def test_a_report_that_is_cut_off_is_no_result(wrk: int, h2load: int) -> None:
    with pytest.raises(ResultError, match="unexpected report"):
        load_generators.parse_wrk(WRK[: min(wrk, WRK.index("error-timeout"))])
    with pytest.raises(ResultError, match="unexpected report"):
        load_generators.parse_h2load(H2LOAD[:h2load], LOG, 1)
    with pytest.raises(ResultError, match="unexpected report"):
        load_generators.parse_h2load(H2LOAD, "1795523183169467\t200\n", 1)


def test_a_missing_generator_names_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        TfshipError, match="wrk and h2load: not found; .*`apt-get install wrk nghttp2-client`"
    ):
        load_generators.require()
    with pytest.raises(TfshipError, match="h2load: not found; .*`apt-get install nghttp2-client`"):
        load_generators.h2load("http://127.0.0.1:1/", tmp_path / "frame", 1, 1, 1)


@needs_generators
def test_nobody_there_is_a_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "body"
    file.write_bytes(b"{}")
    with pytest.raises(TargetError, match="wrk ended with exit code 1: .*unable to connect"):
        load_generators.wrk("http://127.0.0.1:1/", file, 1, 1)
    run = load_generators.h2load("http://127.0.0.1:1/", file, 1, 1, 100)
    assert run.problem == "no request got a response"


@needs_generators
def test_generators_call_themselves_by_name() -> None:
    found = load_generators.versions()
    assert found["wrk"].startswith("wrk ")
    assert found["h2load"].startswith("h2load nghttp2/")
