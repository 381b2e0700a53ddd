"""`tfship kubernetes render`: manifests for one's own model."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tfship.serving.kubernetes import command, manifests
from tfship.serving.kubernetes.manifests import CLAIM, FOLDER, IMAGE, OBJECTS, OVERLAYS, Manifest
from tfship.serving.kubernetes.render import MODEL, Rendering, render
from tfship.train.common import cli

WHERE = {CLAIM: "claim/path/of/it", OBJECTS: "s3://bucket/it", IMAGE: "registry.example:5000/team/it:3"}
WITH_MODELS = [name for name, each in OVERLAYS.items() if each.location]


def located(overlay: str) -> str | None:
    return WHERE.get(OVERLAYS[overlay].location)


def loaded(choice: Rendering) -> list[Manifest]:
    return list(yaml.safe_load_all(render(choice)))


def of_kind(found: list[Manifest], kind: str) -> Manifest:
    (one,) = (each for each in found if each["kind"] == kind)
    return one


@pytest.mark.parametrize("overlay", WITH_MODELS)
def test_no_trace_of_the_committed_model_is_left(overlay: str) -> None:
    text = render(Rendering(overlay=overlay, model="my-model", location=located(overlay)))
    assert MODEL not in text
    assert "my-model" in text


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_without_choices_the_committed_objects_are_written(overlay: str) -> None:
    kept: dict[str, str] = {"object-storage": "s3://models/cnn", "oci": "cnn:1"}
    storage = {
        "kserve-s3": "s3://models/cnn",
        "kserve-canary": "s3://models/cnn-canary",
        "kserve-oci": "cnn:1",
    }
    choice = Rendering(overlay=overlay, location=(kept | storage).get(overlay))
    assert loaded(choice) == manifests.documents(overlay)
    assert render(choice) == render(choice)


@pytest.mark.parametrize(
    ("overlay", "location", "claim", "path"),
    [
        ("volume", None, "models", "/models/m"),
        ("volume", "disk", "disk", "/models/m"),
        ("keda", "disk/a/b/", "disk", "/models/a/b"),
        ("official", "pvc://disk/a", "disk", "/models/a"),
    ],
)
def test_a_claim(overlay: str, location: str | None, claim: str, path: str) -> None:
    deployment = of_kind(loaded(Rendering(overlay=overlay, model="m", location=location)), "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    assert [
        each["persistentVolumeClaim"]["claimName"] for each in pod["volumes"] if each["name"] == "models"
    ] == [claim]
    assert f"--model_base_path={path}" in pod["containers"][0]["args"]
    assert "--model_name=m" in pod["containers"][0]["args"]


def test_object_storage() -> None:
    found = loaded(Rendering(overlay="object-storage", model="m", location="gs://bucket/models/m/"))
    container = of_kind(found, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert "--model_base_path=gs://bucket/models/m" in container["args"]
    assert container["envFrom"] == [{"secretRef": {"name": "m-storage", "optional": True}}]


def test_an_image_of_models_and_one_of_the_server() -> None:
    choice = Rendering(
        overlay="oci", model="m", location="registry.example/m:2", image="registry.example/server:1"
    )
    pod = of_kind(loaded(choice), "Deployment")["spec"]["template"]["spec"]
    assert [each["image"]["reference"] for each in pod["volumes"] if "image" in each] == [
        "registry.example/m:2"
    ]
    assert pod["containers"][0]["image"] == "registry.example/server:1"
    (mount,) = (each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "models")
    assert f"--model_base_path={mount['mountPath']}" in pod["containers"][0]["args"]


@pytest.mark.parametrize(
    ("overlay", "location", "uri"),
    [
        ("kserve-volume", "disk", "pvc://disk/m"),
        ("kserve-volume", "pvc://disk/a/m", "pvc://disk/a/m"),
        ("kserve-s3", "s3://bucket/m", "s3://bucket/m"),
        ("kserve-oci", "registry.example/m:2", "oci://registry.example/m:2"),
        ("kserve-oci", "oci://registry.example/m:2", "oci://registry.example/m:2"),
        ("kserve-canary", "gs://bucket/m/", "gs://bucket/m"),
    ],
)
def test_the_storage_uri(overlay: str, location: str, uri: str) -> None:
    service = of_kind(loaded(Rendering(overlay=overlay, model="m", location=location)), "InferenceService")
    assert service["spec"]["predictor"]["model"]["storageUri"] == uri


def test_replicas_namespace_and_memory() -> None:
    found = loaded(Rendering(overlay="volume", model="m", replicas=(3, 7), namespace="ml", memory_mib=1536))
    scale = of_kind(found, "HorizontalPodAutoscaler")["spec"]
    assert (scale["minReplicas"], scale["maxReplicas"]) == (3, 7)
    assert {each["metadata"]["namespace"] for each in found} == {"ml"}
    resources = of_kind(found, "Deployment")["spec"]["template"]["spec"]["containers"][0]["resources"]
    assert (resources["requests"]["memory"], resources["limits"]["memory"]) == ("1536Mi", "3072Mi")
    spec = of_kind(loaded(Rendering(overlay="keda", replicas=(3, 7), namespace="ml")), "ScaledObject")["spec"]
    assert (spec["minReplicaCount"], spec["maxReplicaCount"], spec["fallback"]["replicas"]) == (3, 7, 3)
    assert 'namespace="ml"' in spec["triggers"][0]["metadata"]["query"]
    runtimes = loaded(Rendering(overlay="kserve-runtimes", namespace="ml", image="s:1"))
    assert all("namespace" not in each["metadata"] for each in runtimes)
    assert {each["spec"]["containers"][0]["image"] for each in runtimes} == {"s:1"}


def test_without_monitoring() -> None:
    before = [each["kind"] for each in loaded(Rendering(overlay="volume"))]
    after = [each["kind"] for each in loaded(Rendering(overlay="volume", monitoring=False))]
    before.remove("ServiceMonitor")
    before.remove("PrometheusRule")
    before.remove("ConfigMap")  # the dashboard; the other one has the server's settings
    assert after == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--overlay=volume"], "--model is missing"),
        (["--overlay=volume", "--model=My_Model"], "--model 'My_Model': expected lower-case letters"),
        (["--overlay=volume", f"--model={'m' * 55}"], "at most 54"),
        (["--overlay=volume", "--model=m", "--namespace=A"], "--namespace 'A': expected"),
        (["--overlay=volume", "--model=m", "--location=s3://b/m"], "--location 's3://b/m': expected CLAIM"),
        (["--overlay=volume", "--model=m", "--image=a b"], "--image 'a b': expected an image"),
        (["--overlay=oci", "--model=m"], "--location is missing; expected the image"),
        (["--overlay=oci", "--model=m", "--location=s3://b/m"], "--location 's3://b/m': expected the image"),
        (["--overlay=object-storage", "--model=m", "--location=https://b/m"], "expected s3://, gs://, az://"),
        (["--overlay=object-storage", "--model=m", "--location=models"], "expected s3://, gs://, az://"),
        (["--overlay=kserve-oci", "--model=m", "--location=m", "--image=a"], "pass it to kserve-runtimes"),
        (["--overlay=kserve-runtimes", "--location=a"], "has no models; leave it out"),
        (["--overlay=kserve-runtimes", "--replicas=1,2"], "has no replicas; leave it out"),
    ],
)
def test_wrong_usage_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(command.main, ["render", *arguments]) == 2
    output = capsys.readouterr()
    assert (output.out, output.err.count("\n")) == ("", 1)
    assert message in output.err


@pytest.mark.parametrize("replicas", ["2", "3,2", "0,2", "a,b", "1,2,3"])
def test_bounds_that_are_none(replicas: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="^2$"):
        command.main(["render", "--overlay=volume", "--model=m", f"--replicas={replicas}"])
    assert "expected MIN,MAX" in capsys.readouterr().err


def test_a_file_and_the_standard_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["render", "--overlay=volume", "--model=m", f"--models={tmp_path}"]
    assert command.main([*arguments, f"--out={tmp_path}/m.yaml"]) == 0
    assert capsys.readouterr().out == ""
    assert command.main(arguments) == 0
    assert capsys.readouterr().out == (tmp_path / "m.yaml").read_text()


@pytest.mark.parametrize(("mebibytes", "expected"), [(1, 1024), (64, 1152), (100, 1472)])
def test_memory_by_the_files_of_the_latest_version(mebibytes: int, expected: int, tmp_path: Path) -> None:
    def version(number: int, size: int) -> None:
        folder = tmp_path / "m" / str(number) / "variables"
        folder.mkdir(parents=True)
        for name, length in (("../saved_model.pb", 0), ("variables.data", size), ("../tflite.bin", 1)):
            with (folder / name).open("wb") as file:
                file.truncate(length << 20)

    assert command.memory_mib(tmp_path / "m") is None
    version(9, 1000)
    version(10, mebibytes)
    assert command.memory_mib(tmp_path / "m") == expected


def test_help_lists_all_overlays(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="^0$"):
        command.main(["render", "--help"])
    shown: Any = capsys.readouterr().out
    assert all(f"  {name} " in shown and each.purpose in shown for name, each in OVERLAYS.items())


def test_the_readmes_commands_write_manifests(capsys: pytest.CaptureFixture[str]) -> None:
    readme = (FOLDER / "README.md").read_text()
    lines = [each for each in readme.splitlines() if each.startswith("tfship kubernetes render --overlay")]
    assert len(lines) == 3
    for line in lines:
        arguments = line.partition(" | ")[0].replace("BUCKET", "bucket").split()[2:]
        assert command.main(arguments) == 0
        assert list(yaml.safe_load_all(capsys.readouterr().out))
    # The table has all overlays.
    table = "".join(each for each in readme.splitlines() if each.startswith("| `"))
    assert all(f"`{name}`" in table for name in OVERLAYS)
