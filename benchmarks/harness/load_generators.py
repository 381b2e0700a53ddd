"""Load from two generators that cost little next to the server: wrk for REST, h2load for gRPC.

Both are closed loops of one thread: as many connections as asked for, each of which sends its next request when
the answer to the last one is there. Both count what goes wrong, and what they can't see is proven here: h2load
knows no gRPC status, but an error comes without a message, so the bytes received tell whether every answer had
one. (That is why h2load's own warm-up isn't used: its byte counts would include it.)

wrk repairs coordinated omission: where a connection waited longer than usual, it adds the latencies that the
requests not sent meanwhile would have seen. So its upper percentiles are a little higher than those of its
requests alone. TensorFlow Serving's reference figures were taken with it too.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tfship.train.common import interruption
from tfship.train.common.errors import ResultError, TargetError, TfshipError

__all__ = ["Run", "all_refused", "h2load", "parse_h2load", "parse_wrk", "require", "versions", "wrk"]

_SCRIPT = Path(__file__).with_name("wrk.lua")
# By the names of Debian's packages.
_TOOLS = {"wrk": "wrk", "h2load": "nghttp2-client"}
# A generator that hasn't ended this long after its time hangs.
_GRACE_SECONDS = 60
# wrk calls an answer that takes longer an error; the default, 2 s, is less than a slow server's queue of 32.
_TIMEOUT_SECONDS = 30
# What h2load sends as a gRPC client would.
_GRPC_HEADERS = ("content-type: application/grpc", "te: trailers")


@dataclass(frozen=True)
class Run:
    """One run of a generator.

    `requests` were answered in `seconds`, and (of h2load) `pending` were not when the time was over; `latencies`
    are microseconds, one for each answer, of wrk a few more (see above). `received` is the bytes of the answers, of
    wrk with their headers. `problem` says what went wrong, and is empty if nothing did.
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
            f"{' and '.join(missing)}: not found; the load comes from there: `apt-get install {packages}` on Debian "
            "and Ubuntu"
        )


def versions(tools: Sequence[str] = tuple(_TOOLS)) -> dict[str, str]:
    """Return what the generators call themselves."""
    return {
        # wrk tells its version on the first line of its usage, and fails.
        tool: subprocess.run([tool, "--version"], capture_output=True, text=True, check=False).stdout.partition("\n")[0]
        for tool in tools
    }  # fmt: skip


def wrk(url: str, body: Path, connections: int, seconds: int) -> Run:
    """POST the JSON file `body` to `url` over and over.

    Raises TargetError if wrk fails or hangs, ResultError if its report isn't understood.
    """
    command = [
        "wrk", "--threads=1", f"--connections={connections}", f"--duration={seconds}s",
        f"--timeout={_TIMEOUT_SECONDS}s", f"--script={_SCRIPT}", url,
    ]  # fmt: skip
    return parse_wrk(_output(command, seconds, {"TFSHIP_BODY": str(body)}))


def h2load(url: str, frame: Path, connections: int, seconds: int, answer_bytes: int) -> Run:
    """POST the gRPC frame in the file `frame` to `url` over and over, one stream at a time on each connection.

    `answer_bytes` is the size of a good answer's frame; 0 if all are to be errors. Raises as `wrk`.
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
    return replace(run, problem=run.problem or _unseen(run, connections, answer_bytes))


def _unseen(run: Run, connections: int, answer_bytes: int) -> str:
    """Return what is wrong with a run of h2load that it doesn't see itself."""
    if run.pending != connections:
        # It goes on without those that are refused or closed.
        return f"{run.pending:,} of {connections:,} connections at work at the end"
    # What unfinished requests have got of their answers is more than the answers count for.
    surplus = run.received - run.requests * answer_bytes
    if not 0 <= surplus < max(1, connections * answer_bytes):
        what = "some are errors" if answer_bytes else "some aren't errors"
        return (
            f"{run.received:,} bytes in {run.requests:,} answers, expected {answer_bytes:,} in each: {what}"
        )
    return ""


def parse_wrk(output: str) -> Run:
    """Return what wrk, with `wrk.lua`, printed. ResultError if that isn't all there."""
    counts = {key: int(value) for key, value in re.findall(r"^tfship ([a-z-]+) (\d+)$", output, re.MULTILINE)}
    if counts.keys() != {"requests", "microseconds", "bytes", *_WRK_ERRORS}:
        raise _not_understood("wrk", output)
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
    """Return what h2load printed, and logged request by request, in `seconds`. ResultError if it isn't all there."""
    requests = re.search(
        r"^requests: .* (\d+) started, (\d+) done, .* (\d+) failed, (\d+) errored, (\d+) timeout$",
        output,
        re.MULTILINE,
    )
    statuses = re.search(r"^status codes: \d+ 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx$", output, re.MULTILINE)
    traffic = re.search(r"^traffic: .* \((\d+)\) data$", output, re.MULTILINE)
    # Per request: start in µs, HTTP status (-1 for none), µs until its answer's end.
    rows = [line.split("\t") for line in log.splitlines()]
    if not requests or not statuses or not traffic or any(len(row) < 3 for row in rows):
        raise _not_understood("h2load", output)
    started, done, failed, errored, timeout = map(int, requests.groups())
    problems = {
        "requests failed": failed,
        "requests ended in an error": errored,
        "requests timed out": timeout,
        "answers with an HTTP error": sum(map(int, statuses.groups())),
    }
    latencies = np.array([float(row[2]) for row in rows if row[1] != "-1"], np.float64)
    return Run(done, seconds, latencies, int(traffic[1]), started - done, _listed(problems, done))


def all_refused(run: Run) -> bool:
    """Tell whether every answer of a run of wrk was an error, and nothing else went wrong."""
    return run.requests > 0 and run.problem == f"{run.requests:,} {_WRK_ERRORS['error-status']}"


_WRK_ERRORS = {
    "error-connect": "connections failed",
    "error-read": "reads failed",
    "error-write": "writes failed",
    "error-status": "answers with an error status",
    "error-timeout": f"requests took longer than {_TIMEOUT_SECONDS} s",
}


def _listed(problems: dict[str, int], answers: int) -> str:
    found = [f"{count:,} {what}" for what, count in problems.items() if count]
    return ", ".join(found if found or answers else ["no request was answered"])


def _output(command: Sequence[str], seconds: int, environment: dict[str, str]) -> str:
    tool = command[0]
    require([tool])
    try:
        with interruption.waiting():
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                timeout=seconds + _GRACE_SECONDS,
                env={**os.environ, **environment},
            )
    except subprocess.TimeoutExpired:
        raise TargetError(
            f"{tool} hasn't ended {_GRACE_SECONDS} s after its {seconds} s; does the server still answer?"
        ) from None
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise TargetError(
            f"{tool} ended with exit code {done.returncode}: {' | '.join(words) or 'it said nothing'}"
        )
    return done.stdout


def _not_understood(tool: str, output: str) -> ResultError:
    return ResultError(
        f"{tool}: its report isn't as expected; is this one of the versions that Debian has? It said: {output[:500]!r}"
    )
