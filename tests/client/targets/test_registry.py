"""The kinds of targets, and the flags that choose one."""

import subprocess
import sys
from pathlib import Path

import pytest

from client_fixtures import SEVEN, run
from conftest import ROOT
from tfship.client import predict
from tfship.client.cli.arguments import choice
from tfship.client.targets.connection import Servable
from tfship.client.targets.registry import TARGETS, Choice, parse
from tfship.export.runtimes.protocol import DEFAULT_SIGNATURE
from tfship.train.common.errors import ArtifactError


@pytest.mark.parametrize("kind", TARGETS)
def test_what_is_not_installed_is_said(kind: str) -> None:
    row = TARGETS[kind]
    script = "import sys; sys.modules[sys.argv[1]] = None; "
    script += "import tfship.client.predict as p, tfship.train.common.cli as c\n"
    script += "sys.exit(c.run(p.main, sys.argv[2:]))"
    command = [sys.executable, "-c", script, row.package, str(SEVEN), "--target", kind]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    name = f"'tfship[{row.extra}]'" if row.extra else "tfship"
    assert f"error: --target {kind} needs {row.package}, which isn't installed: pip install {name}" in line


def test_every_row_opens_in_its_own_module() -> None:
    import importlib

    for row in TARGETS.values():
        assert callable(importlib.import_module(f"tfship.client.targets.{row.module}").open_target)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--target", "local"],
            "--target local: expected rest, grpc, tflite[:PATH], web[:PATH], savedmodel[:PATH], keras",
        ),
        (["--target", "rest:localhost"], "--target rest:localhost: expected its address in --server"),
        (["--target", "tflite:"], "--target tflite:: expected a path after the colon"),
        (["--target", "tflite", "--server", "x:1"], "--server with --target tflite: it uses no server"),
        (["--target", "keras", "--tls", "--header", "a: b"], "--tls, --header with --target keras"),
        (["--target", "tflite", "--timeout", "1", "--no-gzip"], "--timeout with --target tflite"),
        (["--version", "1", "--label", "stable"], "version 1 and label 'stable': expected one of them"),
        (["--version", "-1"], "version -1: expected a whole number"),
        (["--retries", "5"], "5 retries: expected 0 to 4"),
        (["--contract", "nowhere"], "nowhere/contract.json: no such file"),
    ],
)
def test_flags_that_do_not_go_together(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(SEVEN, *arguments) in (2, 4)
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_choice_without_a_kind_that_is_served_has_no_connection() -> None:
    arguments = predict._parser().parse_args(["x.png", "--target", "tflite"])
    assert choice(arguments).connection is None
    rest = choice(predict._parser().parse_args(["x.png", "--label", "stable", "--ca", str(SEVEN)]))
    assert rest.connection is not None
    assert rest.connection.url == "https://localhost:8501"
    grpc = choice(predict._parser().parse_args(["x.png", "--target", "grpc"]))
    assert grpc.connection is not None
    assert grpc.connection.server == "localhost:8500"
    with pytest.raises(ArtifactError, match="holds no version directory"):
        Choice(parse("tflite")[0], Servable("cnn", signature=DEFAULT_SIGNATURE), Path("/nowhere")).version()
