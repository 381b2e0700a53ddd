"""How the server starts and ends, against what a real TensorFlow Serving did with the same command lines.

The recorded models stand for themselves by tiny TFLite files in their places: what is served doesn't matter here.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import recorded
from recorded import ALL
from serving_fixtures import publish, tflite_times

if not ALL.is_dir():
    pytest.skip("no recorded answers beside the repository", allow_module_level=True)

CASES = recorded.read(ALL, "startup")

# What this server does where it isn't what was recorded, and why.
DIFFERENT = {
    "help": ("ends", "who asks for help has made no mistake"),
    "unknown_flag": ("refuses", "a flag that is misspelt would be missed only when it matters"),
    "positional": ("refuses", "the same"),
    "missing_base_path_dir": (
        "refuses",
        "whoever starts a server wants to know; the real one waits for ever",
    ),
    "relative_base_path": ("serves both", "a config file can travel with its models"),
    "config_relative": ("serves both", "the same"),
    "broken_model_default_retries": (
        "refuses",
        "at the start nothing is retried; the real one is, five times",
    ),
    "same_ports": ("refuses", "the real one serves gRPC only, and says so in its log"),
    "labels_at_start_without_flag": (
        "serves both",
        "the versions that labels name are there once all is loaded",
    ),
    "single_dash": ("serves both", "it can mean only one thing"),
    "space_separated_value": ("serves both", "the same"),
}
# Whose message is the recorded one, after the name of the file.
SAME_MESSAGE = {"config_dup", "config_bad_platform", "config_no_platform"}


@dataclass(frozen=True)
class Outcome:
    what: str  # ends, refuses, serves both, serves gRPC, serves REST, serves nothing
    code: int
    out: str
    err: str


def _recorded(case: dict[str, Any]) -> str:
    if case["exited_by_itself"]:
        return "refuses" if case["exit_code"] else "ends"
    return _served(case["grpc_port_open"], case["rest_port_open"])


def _served(grpc: bool, rest: bool) -> str:
    return {
        (True, True): "serves both",
        (True, False): "serves gRPC",
        (False, True): "serves REST",
        (False, False): "serves nothing",
    }[grpc, rest]


# Forks a server for each line: to import its modules is most of what a start costs, and happens once here.
_FORKING = """
import json, os, sys
import tfship.export.runtimes.litert, tfship.serving.server.host
from tfship.serving import command
from tfship.train.common import cli

for line in sys.stdin:
    arguments, *paths = json.loads(line)
    if not (pid := os.fork()):
        for stream, path in enumerate(paths, 1):
            os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY), stream)
        sys.exit(cli.run(command.model_server, arguments))
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def _run(forking: subprocess.Popen[str], case: dict[str, Any], folder: Path) -> Outcome:
    with socket.socket() as grpc, socket.socket() as rest:
        grpc.bind(("127.0.0.1", 0))
        rest.bind(("127.0.0.1", 0))
        ports = {"18800": str(grpc.getsockname()[1]), "18801": str(rest.getsockname()[1])}
    arguments = [re.sub("1880[01]", lambda found: ports[found[0]], each) for each in case["args"]]
    ready = folder / f"{case['name']}.ready"
    arguments += ["--prefer_tflite_model", "--workers=0", f"--ready_file={ready}"]
    out, err = (folder / f"{case['name']}.{stream}" for stream in ("out", "err"))
    assert forking.stdin
    assert forking.stdout
    print(json.dumps([arguments, str(out), str(err)]), file=forking.stdin, flush=True)
    pid, served = int(forking.stdout.readline()), None
    # It is gone when its parent has its exit code.
    with contextlib.suppress(ProcessLookupError):
        while not ready.exists():
            os.kill(pid, 0)
            time.sleep(0.02)
        served = _served(*(_is_open(int(port)) for port in ports.values()))
        os.kill(pid, signal.SIGTERM)
    code = int(forking.stdout.readline())
    return Outcome(served or ("refuses" if code else "ends"), code, out.read_text(), err.read_text())


def _is_open(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5):
        return True
    return False


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    folder = tmp_path_factory.mktemp("startup")
    for file in ALL.glob("*.config"):
        shutil.copy(file, folder)
    for version in (ALL / "models").glob("*/*"):
        publish(folder / "models" / version.parent.name, int(version.name), tflite_times(1))
    publish(folder / "models_broken", 1, b"garbage")
    with subprocess.Popen(
        [sys.executable, "-c", _FORKING], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as forking:
        return {case["name"]: _run(forking, case, folder) for case in CASES}


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in CASES])
def test_a_command_line_does_what_it_did_there(case: dict[str, Any], outcomes: dict[str, Outcome]) -> None:
    name, outcome = case["name"], outcomes[case["name"]]
    if name in DIFFERENT:
        assert outcome.what == DIFFERENT[name][0] != _recorded(case), outcome
    else:
        assert outcome.what == _recorded(case), outcome
    if outcome.what == "refuses":
        # One line, which argparse puts a short usage before.
        *usage, error = outcome.err.splitlines()
        assert outcome.code in (2, 4)
        assert "error: " in error
        assert len(usage) <= 1
    else:
        # The real server's code is that of the signal.
        assert (outcome.code, outcome.err) == (0, "")
    if name in SAME_MESSAGE:
        message = case["stdout"].strip().partition("INVALID_ARGUMENT: ")[2]
        assert message
        assert message in outcome.err


def test_the_lists_name_recorded_cases() -> None:
    assert {case["name"] for case in CASES} >= DIFFERENT.keys() | SAME_MESSAGE
