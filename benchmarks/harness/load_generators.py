"""Load from two generators that need little processor time next to the server: wrk for REST, h2load for gRPC.

Both are closed loops in one thread: each connection sends its next request when it has the response to the last one.
Both count errors. h2load doesn't read the gRPC status, but a gRPC error has no message, so the number of bytes
received shows whether every response had one. (h2load's warm-up isn't used, as its byte counts would include it.)

wrk corrects for coordinated omission: after a connection has waited longer than usual, it adds the latencies that the
delayed requests would have had. So its upper percentiles are slightly higher than those of the actual requests. The
reference figures of TensorFlow Serving were measured with wrk, too.
"""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tfship.benchmarks.harness import captured_process
from tfship.benchmarks.harness.captured_process import last_lines
from tfship.train.common.errors import ResultError, TargetError, TfshipError

__all__ = ["Run", "all_refused", "h2load", "parse_h2load", "parse_wrk", "require", "versions", "wrk"]

_SCRIPT = Path(__file__).with_name("wrk.lua")
# The generators' packages in Debian.
_TOOLS = {"wrk": "wrk", "h2load": "nghttp2-client"}
# A generator that runs this long beyond its duration hangs.
_GRACE_SECONDS = 60
# wrk counts slower responses as errors. Its default, 2 s, is too short for 32 requests queued at a slow server.
_TIMEOUT_SECONDS = 30
# The headers of a gRPC client.
_GRPC_HEADERS = ("content-type: application/grpc", "te: trailers")


@dataclass(frozen=True)
class Run:
    """One run of a generator.

    `requests` got a response in `seconds`; `pending` (h2load only) were in flight at the end. `latencies` has the
    microseconds of each response, and with wrk a few more (see above). `received` is the size of the responses in
    bytes, with wrk including headers. `problem` describes errors and is empty without any.
    """

    requests: int
    seconds: float
    latencies: NDArray[np.float64]
    received: int
    pending: int = 0
    problem: str = ""

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


def require(tools: Sequence[str] = tuple(_TOOLS)) -> None:
    """Raise TfshipError if one of the generators isn't installed."""
    if missing := [tool for tool in tools if shutil.which(tool) is None]:
        packages = " ".join(_TOOLS[tool] for tool in missing)
        raise TfshipError(
            f"{' and '.join(missing)}: not found; needed to generate load: `apt-get install {packages}` on Debian "
            "and Ubuntu"
        )


def versions(tools: Sequence[str] = tuple(_TOOLS)) -> dict[str, str]:
    """Return the names and versions that the generators print."""
    return {
        # wrk has no --version; it fails and prints its version in the first line of its usage.
        tool: subprocess.run([tool, "--version"], capture_output=True, text=True, check=False).stdout.partition("\n")[0]
        for tool in tools
    }  # fmt: skip


def wrk(url: str, body: Path, connections: int, seconds: int) -> Run:
    """POST the JSON file `body` to `url` repeatedly.

    Raises TargetError if wrk fails or hangs, ResultError for an unexpected report.
    """
    command = [
        "wrk", "--threads=1", f"--connections={connections}", f"--duration={seconds}s",
        f"--timeout={_TIMEOUT_SECONDS}s", f"--script={_SCRIPT}", url,
    ]  # fmt: skip
    return parse_wrk(_output(command, seconds, {"TFSHIP_BODY": str(body)}))


def h2load(url: str, frame: Path, connections: int, seconds: int, response_bytes: int) -> Run:
    """POST the gRPC frame in the file `frame` to `url` repeatedly, one stream at a time on each connection.

    `response_bytes` is the size of a valid response's frame; 0 if every response must be an error. Raises like `wrk`.
    """
    with tempfile.TemporaryDirectory(prefix="tfship-") as folder:
        log = Path(folder) / "log"
        command = [
            "h2load", "--threads=1", f"--clients={connections}", "--max-concurrent-streams=1",
            f"--duration={seconds}", f"--data={frame}", f"--log-file={log}",
            *(f"--header={header}" for header in _GRPC_HEADERS), url,
        ]  # fmt: skip
        output = _output(command, seconds, {})
        run = parse_h2load(output, log.read_text() if log.is_file() else "", seconds)
    return replace(run, problem=run.problem or _undetected(run, connections, response_bytes))


def _undetected(run: Run, connections: int, response_bytes: int) -> str:
    """Return a problem that h2load doesn't detect itself, or an empty string."""
    if run.pending != connections:
        # h2load continues without connections that are refused or closed.
        return f"{run.pending:,} of {connections:,} connections were active at the end"
    # The surplus belongs to responses that were incomplete at the end.
    surplus = run.received - run.requests * response_bytes
    if not 0 <= surplus < max(1, connections * response_bytes):
        what = "some are errors" if response_bytes else "some aren't errors"
        return f"{run.received:,} bytes in {run.requests:,} responses, expected {response_bytes:,} in each: {what}"
    return ""


def parse_wrk(output: str) -> Run:
    """Parse the output of wrk with `wrk.lua`. Raises ResultError if it is incomplete."""
    counts = {key: int(value) for key, value in re.findall(r"^tfship ([a-z-]+) (\d+)$", output, re.MULTILINE)}
    if counts.keys() != {"requests", "microseconds", "bytes", *_WRK_ERRORS}:
        raise _unexpected("wrk", output)
    histogram = re.findall(r"^tfship latency (\d+) (\d+)$", output, re.MULTILINE)
    values, times = np.array(histogram, np.int64).reshape(-1, 2).T
    return Run(
        requests=counts["requests"],
        seconds=counts["microseconds"] / 1e6,
        latencies=np.repeat(values, times).astype(np.float64),
        received=counts["bytes"],
        problem=_listed({text: counts[kind] for kind, text in _WRK_ERRORS.items()}, counts["requests"]),
    )


def parse_h2load(output: str, log: str, seconds: float) -> Run:
    """Parse the output of h2load, and its `log` of requests, after `seconds`. Raises ResultError if incomplete."""
    requests = re.search(
        r"^requests: .* (\d+) started, (\d+) done, .* (\d+) failed, (\d+) errored, (\d+) timeout$",
        output,
        re.MULTILINE,
    )
    statuses = re.search(r"^status codes: \d+ 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx$", output, re.MULTILINE)
    traffic = re.search(r"^traffic: .* \((\d+)\) data$", output, re.MULTILINE)
    # Each row: start of the request in µs, HTTP status (-1 for none), µs until the end of the response.
    rows = [line.split("\t") for line in log.splitlines()]
    if not requests or not statuses or not traffic or any(len(row) < 3 for row in rows):
        raise _unexpected("h2load", output)
    started, done, failed, errored, timeout = map(int, requests.groups())
    problems = {
        "requests failed": failed,
        "requests ended in an error": errored,
        "requests timed out": timeout,
        "responses with an HTTP error": sum(map(int, statuses.groups())),
    }
    latencies = np.array([float(row[2]) for row in rows if row[1] != "-1"], np.float64)
    return Run(done, seconds, latencies, int(traffic[1]), started - done, _listed(problems, done))


def all_refused(run: Run) -> bool:
    """Return whether every response of a run of wrk had an error status, without other problems."""
    return run.requests > 0 and run.problem == f"{run.requests:,} {_WRK_ERRORS['error-status']}"


_WRK_ERRORS = {
    "error-connect": "connections failed",
    "error-read": "reads failed",
    "error-write": "writes failed",
    "error-status": "responses with an error status",
    "error-timeout": f"requests took longer than {_TIMEOUT_SECONDS} s",
}


def _listed(problems: dict[str, int], responses: int) -> str:
    found = [f"{count:,} {what}" for what, count in problems.items() if count]
    return ", ".join(found if found or responses else ["no request got a response"])


def _output(command: Sequence[str], seconds: int, environment: dict[str, str]) -> str:
    tool = command[0]
    require([tool])
    try:
        done = captured_process.run(command, seconds + _GRACE_SECONDS, environment)
    except subprocess.TimeoutExpired:
        raise TargetError(
            f"{tool} is still running {_GRACE_SECONDS} s after its {seconds} s; does the server still respond?"
        ) from None
    if done.returncode:
        raise TargetError(
            f"{tool} ended with exit code {done.returncode}: {last_lines(done.stderr or done.stdout)}"
        )
    return done.stdout


def _unexpected(tool: str, output: str) -> ResultError:
    return ResultError(
        f"{tool}: unexpected report; expected that of the version in Debian. It printed: {output[:500]!r}"
    )
