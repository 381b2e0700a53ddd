"""What the doctor says of models on a server, each fault made for real."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from conftest import ROOT
from doctor_fixtures import at, card_of, cut_graph, diagnose, folder_of_models, free_port
from serving_fixtures import config_of, eventually, publish, serving, slow_steps, tiny_models
from tfship.client.doctor import command
from tfship.export.preprocessing import input_contract
from tfship.export.publishing import warmup_requests
from tfship.serving.models.manager import LoadPolicy
from tfship.serving.server.model_server import Settings
from tfship.train.common import cli


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder of models with the version cnn/1."""
    return folder_of_models(tmp_path)


def test_all_is_well(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(config_of(cnn=models / "cnn"), Settings(health=True)) as client:
        (models / "cnn" / "1" / "contract.json").unlink()
        found = diagnose(*at(client), "--models", models)
        assert found.code == 6
        input_contract.digits("cnn").write(models / "cnn" / "1")
        found = diagnose(*at(client), "--models", models)
        assert found.code == 0
        # Its SavedModel has fewer signatures than the contract.
        assert "lacks signatures of the contract: serving_uint8" in found.level("warning")[0]
        assert cli.run(command.main, [*at(client), f"--models={models / 'cnn'}", "--version=1"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [each.split()[0] for each in lines] == ["ok", "ok", "warning", "ok", "ok"]
        assert "a model server responds over REST" in lines[0]
        assert "serving_default: image float32 [N, 28, 28, 1] → probabilities float32 [N, 10]" in lines[3]
        assert "input contract and hashes match" in lines[4]
        # Either port by itself, whichever it is.
        for port in (client.rest_port, client.grpc_port):
            assert diagnose(f"--server=127.0.0.1:{port}", "--models", models).code == 0


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["--server=a", "--rest=b:1"], ["--rest=nonsense"], ["--grpc=h:99999"], ["--header=no colon"], ["--version=-1"],
        ["--header=bad name: x"], ["--timeout=0"], ["--cert=nope.pem"], ["--ca=nope.pem"], ["--log=nope"],
        ["--model_config_file=nope"], ["--rest=user@h:80"], ["--rest=h:80/path"],
    ):  # fmt: skip
        assert cli.run(command.main, arguments) == 2, arguments
        assert len(capsys.readouterr().err.splitlines()) == 1, arguments


def test_it_is_a_command_of_the_client(models: Path) -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "tfship.train.common.entry_point", "doctor", f"--rest=127.0.0.1:{free_port()}",
            f"--models={models}",
        ],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (6, "")
    assert done.stdout.splitlines()[0].startswith("fault    REST 127.0.0.1:")


ENDED = LoadPolicy(poll_seconds=0.05, retries=0)


def test_wrong_names(models: Path) -> None:
    publish(models / "other", 4)
    config = config_of(cnn=models / "cnn", hidden=models / "cnn")
    config.model_config_list.config[0].version_labels["stable"] = 1
    with serving(config) as client:
        here = [*at(client), "--models", models]
        unknown = diagnose(*here, "--model=cmn").faults
        assert "knows no model cmn; of the names tried, it knows cnn" in unknown[0]
        assert "has no version 4 of cnn; there are 1 (AVAILABLE)" in diagnose(*here, "--version=4").faults[0]
        assert "it knows stable (version 1)" in diagnose(*here, "--label=stabel").only
        assert diagnose(*here, "--label=stable").code == 0
        signature = diagnose(*here, "--signature=predict").only
        assert "no signature 'predict'; there are serving_default: image float32 [N, 28, 28, 1]" in signature
    with serving(
        config_of(secret=models / "cnn"), Settings(metrics_path="/monitoring/prometheus/metrics")
    ) as client:
        rest = f"--rest=127.0.0.1:{client.rest_port}"
        assert "it knows secret" in diagnose(rest, "--models", models).only  # by its metrics page
        grpc = f"--grpc=127.0.0.1:{client.grpc_port}"
        only = diagnose(grpc, "--models", models).only
        assert "servers don't list their models | it is on this disk" in only


def test_a_config_file(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "cnn" / "1", models / "cnn" / "2")
    file = tmp_path / "models.config"
    rest = [f"--rest=127.0.0.1:{free_port()}", "--models", models, "--model_config_file", file]

    def write(more: str) -> None:
        base = models / "cnn"
        file.write_text(
            f'model_config_list {{ config {{ name: "cnn" base_path: "{base}" model_platform: "tensorflow" {more} }} }}'
        )

    write('version_labels { key: "stable" value: 1 }')
    assert (
        "gives cnn no label 'canary', but stable (version 1)" in diagnose(*rest, "--label=canary").faults[0]
    )
    assert "lists no model nn, but cnn" in diagnose(*rest, "--model=nn").faults[0]
    write("model_version_policy { specific { versions: 1 } }")
    assert "selects 1 of the versions on disk, not 2" in diagnose(*rest).faults[-1]
    file.write_text("model_config_list { config { name: ")
    assert "not a ModelServerConfig in protobuf text format" in diagnose(*rest).faults[0]
    # A server that is started with it and has another name for the model: the file's names are tried.
    write("")
    with serving(config_of(cnn=models / "cnn")) as client:
        found = diagnose(*at(client), "--model=digits", "--models", tmp_path, "--model_config_file", file)
        assert "it knows cnn" in found.faults[1]


def test_another_contract(models: Path) -> None:
    version = models / "cnn" / "1"
    with serving(config_of(cnn=models / "cnn")) as client:
        here = [*at(client), "--models", models]
        digits = input_contract.digits("cnn")
        replace(digits, labels=digits.labels[:9]).write(version)
        card_of(version).write(version)
        assert "probabilities is float32 [N, 10], expected float32 [N, 9]" in (only := diagnose(*here).only)
        assert "the contract names 9 labels" in only
        replace(digits, height=32, width=32).write(version)
        card_of(version).write(version)
        assert "image is float32 [N, 28, 28, 1], expected float32 [N, 32, 32, 1]" in diagnose(*here).only


def test_another_model_of_the_same_number(models: Path) -> None:
    with serving(config_of(cnn=tiny_models() / "double")) as client:
        only = diagnose(*at(client), "--models", models).only
        assert "no input image, but x float32 [N, 2]" in only
        (models / "cnn" / "1" / "contract.json").unlink()
        (models / "cnn" / "1" / "export.json").unlink()
        only = diagnose(*at(client), "--models", models).only
        assert "cnn version 1 differs from version 1 on this disk" in only


def test_the_newest_is_not_served(models: Path) -> None:
    cnn = models / "cnn"
    with serving(config_of(cnn=cnn), loading=LoadPolicy(poll_seconds=0)) as client:
        here = [*at(client), "--models", models]
        shutil.copytree(cnn / "1", cnn / "2")
        assert (
            "serves cnn version 1, and the newest on disk is 2, which the server doesn't know"
            in diagnose(*here).only
        )
        assert diagnose(*here, "--version=1").code == 0
        (cnn / "2").rename(cnn / "retired-2")
        assert diagnose(*here).code == 0
        shutil.copytree(cnn / "1", cnn / "0")
        (cnn / "1").rename(cnn / "retired-1")
        found = diagnose(*here)
        assert found.code == 0
        assert "the newest on disk is 0: 1 is retired here" in found.level("warning")[0]


def _without_operator(version: Path) -> None:
    from tfship.serving.protos.messages import saved_model_pb2

    graph = version / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(graph.read_bytes())
    model.meta_graphs[0].graph_def.node.add(name="mine", op="MyOwnOp")
    graph.write_bytes(model.SerializeToString())


def _bad_warmup(version: Path) -> None:
    (version / "assets.extra").mkdir()
    (version / "assets.extra" / "tf_serving_warmup_requests").write_bytes(b"no record at all")


def _damaged_variables(version: Path) -> None:
    index = version / "variables" / "variables.index"
    index.write_bytes(index.read_bytes()[: index.stat().st_size // 2])


@pytest.mark.parametrize(
    ("damage", "meaning", "remedy"),
    [
        (cut_graph, "saved_model.pb is damaged or truncated", "copy or export the version again"),
        (_without_operator, "needs the operator MyOwnOp", "at least as new as the TensorFlow of the export"),
        (_bad_warmup, "a warmup request fails", "--enable_model_warmup=false"),
        (_damaged_variables, "the variables are damaged or truncated", "copy or export the version again"),
        (lambda version: (version / "saved_model.pb").unlink(), "holds no saved_model.pb", "copy or export"),
        (
            lambda version: shutil.rmtree(version / "variables"),
            "variables' files are missing",
            "copy or export",
        ),
    ],
)
def test_a_version_that_failed(
    models: Path, damage: Callable[[Path], None], meaning: str, remedy: str
) -> None:
    cnn = models / "cnn"
    with serving(config_of(cnn=cnn), loading=ENDED) as client:
        stage = cnn / ".stage-2"
        shutil.copytree(cnn / "1", stage)
        damage(stage)
        stage.rename(cnn / "2")
        eventually(lambda: client.states("cnn").get("2") == "END")
        faults = diagnose(*at(client), "--models", models).faults
        assert "cnn version 2 couldn't be loaded: " in faults[0]
        assert meaning in faults[0]
        assert remedy in faults[0]
        # Told once: that 1 is served and not 2 follows from it.
        assert not any("newest on disk" in each for each in faults)


def test_a_load_that_is_tried_again(models: Path) -> None:
    cnn = models / "cnn"
    policy = LoadPolicy(poll_seconds=0.05, retries=5, retry_seconds=60)
    with serving(config_of(cnn=cnn), loading=policy) as client:
        (cnn / "2").mkdir()
        eventually(lambda: client.states("cnn").get("2") == "LOADING")
        time.sleep(0.2)
        only = diagnose(f"--grpc=127.0.0.1:{client.grpc_port}", "--models", models).faults[0]
        assert (
            "version 2 couldn't be loaded (the server tries again): the version directory holds no saved_model.pb"
            in only
        )


def test_a_version_that_was_withdrawn(models: Path) -> None:
    cnn = models / "cnn"
    with serving(config_of(cnn=cnn)) as client:
        shutil.copytree(cnn / "1", models / "stage")
        (models / "stage").rename(cnn / "2")
        eventually(lambda: client.states("cnn") == {"1": "END", "2": "AVAILABLE"})
        faults = diagnose(*at(client), "--models", models, "--version=1").faults
        assert "cnn version 1 is END: it was unloaded" in faults[0]
        shutil.rmtree(cnn / "1")
        (cnn / "2").rename(cnn / "2.tmp")
        eventually(lambda: "AVAILABLE" not in client.states("cnn").values())
        faults = diagnose(*at(client), "--models", models).faults
        assert "no longer serves a version of cnn" in faults[0]


def test_a_server_that_is_not_ready(tmp_path: Path) -> None:
    base = tmp_path / "slow"
    shutil.copytree(tiny_models() / "slow" / "1", base / "1")
    with serving(config_of(slow=base)) as client:
        steps = slow_steps(client, 3, "slow")
        (base / "1").rename(tmp_path / "1")
        eventually(lambda: client.states("slow") == {"1": "END"})
        stage = base / ".stage-2"
        shutil.copytree(tmp_path / "1", stage)
        # Warmed up by a request that takes seconds, it isn't available for as long.
        warmup_requests.write(stage, "slow", [("serving_default", {"n": np.array([steps], np.int32)})])
        stage.rename(base / "2")
        eventually(lambda: client.states("slow").get("2") == "LOADING")
        faults = diagnose(*at(client), "--models", tmp_path, "--model=slow").faults
        assert any(
            "isn't ready yet: slow version 2 is LOADING | run the doctor again later" in each
            for each in faults
        ), faults


def test_a_server_that_says_so(models: Path) -> None:
    server, servicer = grpc.server(ThreadPoolExecutor(2)), health.HealthServicer()
    servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        faults = diagnose(f"--grpc=127.0.0.1:{port}", "--models", models).faults
    finally:
        server.stop(None).wait()
    assert "reports NOT_SERVING: it is shutting down, or not ready yet" in faults[1]
