import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from client_fixtures import send, web
from conftest import ROOT
from tfship.benchmarks.harness.server_process import Server, embedded
from tfship.client import predict
from tfship.client.images.draw_samples import FOLDER
from tfship.client.targets.connection import Connection, Servable
from tfship.client.targets.grpc import Grpc
from tfship.client.targets.rest import Rest
from tfship.export.conversion.formats import FORMATS
from tfship.export.publishing import store, verification
from tfship.export.runtimes.protocol import Target
from tfship.train.common import cli
from tfship.train.common.errors import Refused, Unreachable
from tfship.train.data.datasets import Digits, to_input

SEVEN = FOLDER / "seven.png"


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[Server]:
    # Warm-up requests would take longer than all others together.
    with embedded(models, ["nn", "cnn"], "--workers=1", "--enable_model_warmup=false") as running:
        yield running


def run(*arguments: object) -> int:
    return cli.run(predict.main, [str(each) for each in arguments])


def paths(server: Server, models: Path) -> dict[str, list[str]]:
    patient = "--timeout=100"  # TensorFlow's first request by a signature takes a while on a busy machine
    return {
        "rest": ["--server", server.rest, patient],
        "grpc": ["--target", "grpc", "--server", server.grpc, patient],
        "tflite": ["--target", "tflite", "--models", str(models)],
        "savedmodel": ["--target", "savedmodel", "--models", str(models)],
        "keras": ["--target", "keras", "--models", str(models)],
    }


@pytest.mark.parametrize("how", ["rest", "grpc", "savedmodel"])
def test_every_signature_answers_the_same(
    server: Server, models: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    where = [*paths(server, models)[how], "--models", str(models), "--json"]
    assert run(FOLDER, *where) == 0
    expected = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["label"] for each in expected] == ["5", "7", "3", "2"]
    for signature in ("serving_default", "serving_uint8", "serving_bytes"):
        assert run(FOLDER, *where, "--signature", signature) == 0
        found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        # Preparation by the server may be off by a step of 255.
        for one, other in zip(found, expected, strict=True):
            assert one["label"] == other["label"], signature
            assert one["probability"] == pytest.approx(other["probability"], abs=0.01), signature


@pytest.mark.parametrize("how", ["rest", "grpc", "tflite", "savedmodel", "keras"])
@pytest.mark.parametrize("model", ["nn", "cnn"])
def test_samples_are_recognised(
    server: Server, models: Path, how: str, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(FOLDER, "--model", model, "--json", *paths(server, models)[how]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = {Path(each["image"]).stem: each["label"] for each in answers}
    assert found == {"two": "2", "three": "3", "five": "5", "seven": "7"}
    for each in answers:
        assert each["probability"] == max(each["probabilities"].values()) > each["runner_up"]["probability"]
        assert list(each["probabilities"]) == list("0123456789")


def test_all_paths_give_the_same_probabilities(server: Server, models: Path, sample: Digits) -> None:
    images = to_input(sample.x_test[:100])
    version = store.latest(models / "cnn")
    targets: dict[str, Target] = {
        "rest": Rest(Connection(server.rest), Servable("cnn")),
        "rest, version 1": Rest(Connection(server.rest), Servable("cnn", 1)),
        "grpc": Grpc(Connection(server.grpc), Servable("cnn")),
        "grpc, version 1": Grpc(Connection(server.grpc), Servable("cnn", 1)),
        "tflite": verification.open_tflite(version, FORMATS["float32"]),
    }
    reference = verification.open_saved_model(version).predict(images)
    for name, target in targets.items():
        found = target.predict(images)
        assert found.dtype == np.float32, name
        np.testing.assert_allclose(found, reference, atol=1e-5, err_msg=name)
        target.close()


def test_the_line_for_a_person(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(SEVEN, "--target", "tflite", "--models", models) == 0
    line = capsys.readouterr().out
    assert line.startswith(f"{SEVEN}: 7 (")
    assert "%), then " in line


@pytest.mark.parametrize("format_name", FORMATS)
def test_tflite_runs_every_format(models: Path, format_name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(SEVEN, "--target", f"tflite:{format_name}", "--models", models, "--json") == 0
    assert json.loads(capsys.readouterr().out)["label"] == "7"


def test_tflite_takes_a_file(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.tflite"
    shutil.copy(store.latest(models / "nn") / "tflite" / "int8.tflite", file)
    assert run(SEVEN, "--target", f"tflite:{file}") == 0
    assert ": 7 (" in capsys.readouterr().out


def test_one_bad_picture_does_not_cost_the_others_their_answer(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_text("no picture")
    assert run(bad, SEVEN, tmp_path / "missing.png", "--target", "tflite", "--models", models) == 3
    captured = capsys.readouterr()
    assert [line.split(":")[0] for line in captured.out.splitlines()] == [str(SEVEN)]
    assert captured.err.splitlines() == [
        f"error: {bad}: not an image; expected PNG, JPEG or another image format",
        f"error: {tmp_path / 'missing.png'}: no such file",
    ]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize("flags", [[], ["--target", "grpc"]])
def test_unreachable_server(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(SEVEN, *flags, "--server", f"127.0.0.1:{free_port()}") == 5
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "server responds there" in line
    assert "tfship serve" in line


@pytest.mark.parametrize("flags", [[], ["--target", "grpc"]])
@pytest.mark.parametrize("server_name", ["no port", "127.0.0.1:x", "127.0.0.1:99999", "[::", "a" * 300])
def test_nonsense_for_a_server(
    flags: list[str], server_name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(SEVEN, *flags, "--server", server_name, "--timeout", "2") == 5
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("how", ["rest", "grpc"])
def test_unknown_model_and_version(
    server: Server, models: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for wrong in (["--model", "nope"], ["--version", "99"]):
        assert run(SEVEN, *paths(server, models)[how], *wrong) == 5
        (line,) = capsys.readouterr().err.splitlines()
        assert "Servable not found for request" in line


def test_the_other_ports_number(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(SEVEN, "--server", server.grpc, "--timeout", "3") == 5
    assert "is this its REST port" in capsys.readouterr().err
    assert run(SEVEN, "--target", "grpc", "--server", server.rest, "--timeout", "3") == 5
    assert "is this its gRPC port" in capsys.readouterr().err


def test_tflite_without_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(SEVEN, "--target", "tflite", "--models", tmp_path) == 4
    assert "run `tfship export` first" in capsys.readouterr().err
    assert run(SEVEN, "--target", f"tflite:{SEVEN}") == 4
    assert "LiteRT can't load it" in capsys.readouterr().err


def test_a_timeout_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(SEVEN, "--timeout", "0") == 2
    assert "a timeout of 0: expected more than 0 seconds" in capsys.readouterr().err


def test_a_web_server_that_is_no_model_server() -> None:
    with web(lambda handler, _: send(handler, 200, b"<html>hello</html>")) as server:
        target = Rest(Connection(server.address), Servable("cnn"))
        with pytest.raises(Refused, match="HTTP 200 without TensorFlow Serving's JSON"):
            target.predict(np.zeros((1, 28, 28, 1), np.float32))
        target.close()


@pytest.mark.parametrize("kind", [Rest, Grpc])
def test_a_server_that_never_answers(kind: type[Rest] | type[Grpc]) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        target = kind(Connection(f"127.0.0.1:{silent.getsockname()[1]}", timeout=0.5), Servable("cnn"))
        with pytest.raises(Unreachable, match=r"no response within 0\.5 s|no gRPC server responds"):
            target.predict(np.zeros((1, 28, 28, 1), np.float32))
        target.close()


@pytest.mark.parametrize("how", ["rest", "grpc", "tflite"])
def test_tensorflow_is_never_loaded(server: Server, models: Path, how: str) -> None:
    script = """
import sys
import tfship.client.predict
assert "tensorflow" not in sys.modules
assert tfship.client.predict.main(sys.argv[1:]) == 0
loaded = {name.split(".")[0] for name in sys.modules}
assert not loaded & {"tensorflow", "tensorflow_serving", "keras"}, loaded
assert not any("tensorflow" in line and ".so" in line for line in open("/proc/self/maps")), "a library"
"""
    command = [sys.executable, "-c", script, str(SEVEN), *paths(server, models)[how]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert ": 7 (" in done.stdout


@pytest.mark.parametrize(
    "command",
    [
        ["client/predict.py"],
        ["-m", "tfship.train.common.entry_point", "predict"],
        [str(ROOT / "client" / "predict.py")],
    ],
)
def test_as_a_script_and_as_a_module(models: Path, command: list[str], tmp_path: Path) -> None:
    directory = tmp_path if Path(command[-1]).is_absolute() else ROOT
    done = subprocess.run(
        [sys.executable, *command, str(SEVEN), "--target", "tflite", "--models", str(models)],
        cwd=directory, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{SEVEN}: 7 (")
