"""What `pip install` makes of the repository: the package tfship, its commands, and nothing in anyone's way."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from conftest import BUILT_PAGE, PACKAGES, ROOT
from serving_fixtures import Client, eventually, publish
from tfship.benchmarks.harness.server_process import Server, embedded
from tfship.client.images.draw_samples import FOLDER
from tfship.train.common.tensorflow_loader import WITHOUT_KERAS

SEVEN = FOLDER / "seven.png"
RELEASED = ROOT / "models" / "released" / "cnn.int8.tflite"
GRPC = ("--target", "grpc")
LOCAL = (f"--target=tflite:{RELEASED}",)
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def required(*extras: str) -> list[str]:
    """Return the names of what tfship needs, with these extras."""
    found = [Requirement(each) for each in PROJECT["dependencies"]]
    for extra in extras:
        for each in map(Requirement, PROJECT["optional-dependencies"][extra]):
            if each.name == "tfship":
                found += map(Requirement, required(*each.extras))
            elif each.marker is None or each.marker.evaluate():
                found.append(each)
    return sorted({each.name for each in found})


def linked(folder: Path, names: Sequence[str]) -> Path:
    """Make a folder of links to what these distributions, and those that they need, have installed here."""
    waiting, seen = list(names), set()
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        distribution = importlib.metadata.distribution(name)
        requirements = map(Requirement, distribution.requires or ())
        waiting += [
            each.name for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""})
        ]
        for file in distribution.files or ():
            if ".." not in file.parts and "__pycache__" not in file.parts[0]:
                # A namespace, such as google, is several distributions'.
                top = Path(str(distribution.locate_file(file.parts[0])))
                parts = file.parts[:2] if top.is_dir() and not regular(top) else file.parts[:1]
                link = folder.joinpath(*parts)
                link.parent.mkdir(exist_ok=True)
                if not link.exists():
                    link.symlink_to(Path(str(distribution.locate_file(Path(*parts)))))
    return folder


def regular(folder: Path) -> bool:
    return (folder / "__init__.py").exists() or folder.suffix in {".dist-info", ".libs"}


@pytest.fixture(scope="module")
def needed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return linked(tmp_path_factory.mktemp("needed"), required())


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return linked(tmp_path_factory.mktemp("serving"), required("serve"))


def environment(*path: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "PYTHONDONTWRITEBYTECODE": "1"}


def python(folder: Path, *arguments: str | Path, path: Sequence[Path]) -> subprocess.CompletedProcess[str]:
    """Run Python in `folder`, with nothing but its own library and `path` to import from."""
    return subprocess.run(
        [sys.executable, "-S", *arguments],
        cwd=folder, env=environment(*path), capture_output=True, text=True, check=False,
    )  # fmt: skip


def tfship(folder: Path, *arguments: str | Path, path: Sequence[Path]) -> subprocess.CompletedProcess[str]:
    """Run the command as it was installed, which is the first folder of `path`."""
    return python(folder, path[0] / "bin" / "tfship", *arguments, path=path)


def test_nothing_but_tfship_is_installed(wheel: Path, site: Path) -> None:
    assert {path.name for path in site.iterdir() if path.suffix != ".dist-info"} == {"tfship", "bin"}
    assert {path.name for path in (site / "bin").iterdir()} == {"tfship", "tfship-model-server"}
    assert {path.name for path in (site / "tfship").iterdir()} == set(PACKAGES)
    names = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("tfship/")}
    assert {
        "tfship/client/py.typed",
        "tfship/client/samples/seven.png",
        "tfship/export/descriptors.binpb",
        "tfship/benchmarks/report/results.schema.json",
        "tfship/benchmarks/report/page.html",
        "tfship/serving/kubernetes/rendered/volume.yaml",
    } <= names


def test_the_wheel_carries_the_built_page(wheel: Path) -> None:
    if not BUILT_PAGE.is_dir():
        pytest.skip("the page's files aren't built; run `make web`")
    built = {f"tfship/client/web/dist/{each.relative_to(BUILT_PAGE)}" for each in BUILT_PAGE.rglob("*.gz")}
    names = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("tfship/client/web/")}
    # The sources aren't needed.
    assert names == built
    assert "tfship/client/web/dist/wasm/litert_wasm_internal.wasm.gz" in names


def test_all_modules_are_in_the_wheel(site: Path) -> None:
    for folder in PACKAGES:
        found = (path.relative_to(ROOT) for path in (ROOT / folder).rglob("*.py"))
        modules = {path for path in found if "node_modules" not in path.parts}
        modules.discard(Path("serving/docker/lock_subset.py"))  # for building images
        assert modules == {
            path.relative_to(site / "tfship") for path in (site / "tfship" / folder).rglob("*.py")
        }


def test_the_client_needs_no_extra(site: Path, needed: Path, tmp_path: Path) -> None:
    """Only a model in this process needs more, and only what the extras name."""
    script = """
import importlib, pkgutil, sys, tfship.client
missing = set()
for module in pkgutil.walk_packages(tfship.client.__path__, "tfship.client."):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        missing.add((module.name, error.name.partition(".")[0]))
optional = {
    "tfship.client.targets.tflite", "tfship.client.targets.saved_model", "tfship.client.targets.keras",
    "tfship.client.targets.web", "tfship.client.images.draw_samples",
}
assert {name for name, _ in missing} <= optional, missing
print("done")
"""
    done = python(tmp_path, "-c", script, path=[site, needed])
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr


@pytest.mark.parametrize(
    ("command", "needs"),
    [
        (["train"], "tensorflow"),
        (["export", "my.keras"], "tensorflow"),
        (["serve", "--model_base_path=m"], "serve"),
        (["benchmark"], "benchmark"),
        (["report"], "benchmark"),
        (["kubernetes", "render"], "kubernetes"),
        (["score", "x.png", "--out=scores.parquet"], "score"),
    ],
)
def test_a_missing_extra_is_one_line(
    site: Path, needed: Path, tmp_path: Path, command: list[str], needs: str
) -> None:
    done = tfship(tmp_path, *command, path=[site, needed])
    assert (done.stdout, done.returncode) == ("", 2)
    (line,) = done.stderr.splitlines()
    assert re.fullmatch(
        rf"error: tfship {command[0]} needs \w+, which isn't installed: pip install 'tfship\[{needs}\]'", line
    )
    assert list(tmp_path.iterdir()) == []


def test_commands(site: Path, needed: Path, tmp_path: Path) -> None:
    shown = tfship(tmp_path, path=[site, needed]).stdout
    assert tfship(tmp_path, "--help", path=[site, needed]).stdout == shown
    listed = re.findall(r"(?m)^  (\w+) +\w", shown)
    assert listed == [
        "train", "export", "serve", "web", "predict", "score", "compare", "doctor", "benchmark", "report",
        "kubernetes", "versions",
    ]  # fmt: skip
    assert tfship(tmp_path, "--version", path=[site, needed]).stdout == f"tfship {PROJECT['version']}\n"
    done = tfship(tmp_path, "exprot", path=[site, needed])
    assert done.returncode == 2
    assert done.stderr == f"error: tfship exprot: no such command; expected one of {', '.join(listed)}\n"
    for command in ("predict", "compare", "doctor"):
        done = tfship(tmp_path, command, "--help", path=[site, needed])
        assert done.stdout.startswith(f"usage: tfship {command} ")


def test_the_model_server_is_a_command(site: Path, serving: Path, tmp_path: Path) -> None:
    publish(tmp_path / "m", 1, RELEASED.read_bytes())  # what is made here takes TensorFlow
    ready = tmp_path / "ready.json"
    server = subprocess.Popen(
        [
            sys.executable, "-S", site / "bin" / "tfship-model-server", f"--model_base_path={tmp_path}/m",
            "--prefer_tflite_model", "--port=-1", "--rest_api_port=-1", f"--ready_file={ready}",
        ],
        cwd=tmp_path, env=environment(site, serving), stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        eventually(lambda: ready.exists() or server.poll() is not None)
        client = Client.of(ready)
        assert client.rest("/v1/models/default:predict", {"instances": [[[[0.0]] * 28] * 28]})[0] == 200
    finally:
        server.terminate()
    assert server.wait() == 0


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[Server]:
    # It starts without TensorFlow: what is tested are its clients.
    with embedded(models, ["cnn"], "--workers=1", "--prefer_tflite_model") as running:
        yield running


@pytest.mark.parametrize("way", [(), GRPC], ids=["rest", "grpc"])
def test_a_server_is_asked(
    site: Path, needed: Path, server: Server, way: tuple[str, ...], tmp_path: Path
) -> None:
    address = server.grpc if way else server.rest
    done = tfship(tmp_path, "predict", SEVEN, "--json", *way, "--server", address, path=[site, needed])
    assert (done.stderr, done.returncode) == ("", 0)
    assert json.loads(done.stdout)["label"] == "7"


LIBRARY = """
import asyncio, sys
from tfship.client import AsyncClient, Client, DataError, Refused, TfshipError
{imports}
picture, *addresses = sys.argv[1:]

async def main(address):
    async with AsyncClient(address) as client:
        one, other = await asyncio.gather(client.predict(picture), client.predict(picture))
        assert one == other
        return one.label

for address in addresses:
    with Client(address) as client:
        print(client.predict(picture).label, asyncio.run(main(address)), end=" ")
        try:
            client.predict("nowhere.png")
        except DataError as error:
            assert isinstance(error, TfshipError)
    try:
        Client(address, model="nope").predict(picture)
    except Refused:
        pass
loaded = {{name.partition(".")[0] for name in sys.modules}}
assert ("tensorflow" in loaded) == {with_tensorflow}, loaded
"""


def test_other_programs_import_it(site: Path, needed: Path, server: Server, tmp_path: Path) -> None:
    """Programs with packages called `train` or `client`, too."""
    for name in PACKAGES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"mine = {name!r}\n")
    imports = "import train, export, serving, client\nassert client.mine == 'client'"
    script = LIBRARY.format(imports=imports, with_tensorflow=False)
    addresses = (server.grpc, f"http://{server.rest}")
    done = python(tmp_path, "-W", "error", "-c", script, SEVEN, *addresses, path=[tmp_path, site, needed])
    assert (done.stdout, done.stderr, done.returncode) == ("7 7 7 7 ", "", 0)


def test_other_programs_import_tensorflow_too(
    site: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorFlow Serving's own messages, of the same names, live in the same process."""
    for variable, value in WITHOUT_KERAS.items():  # Keras takes long, and has no messages
        monkeypatch.setenv(variable, value)
    names = [*required(), "tensorflow", "tensorflow-serving-api"]
    both = linked(tmp_path / "both", names)
    imports = """
import tensorflow
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
assert predict_pb2.PredictRequest(inputs={"image": tensorflow.make_tensor_proto([1.0])}).ByteSize()
"""
    script = LIBRARY.format(imports=imports, with_tensorflow=True)
    addresses = (server.grpc, f"http://{server.rest}")
    done = python(tmp_path, "-c", script, SEVEN, *addresses, path=[site, both])
    assert (done.stdout, done.returncode) == ("7 7 7 7 ", 0), done.stderr


def test_the_types_of_what_it_offers(site: Path, tmp_path: Path) -> None:
    """As mypy sees them from outside, strictly: `py.typed` is there, and nothing is Any that needn't be."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (packages / "tfship").symlink_to(site / "tfship")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    (tmp_path / "right.py").write_text("""
from pathlib import Path
import numpy as np
from tfship.client import AsyncClient, Client, Contract, Prediction, TfshipError, Tls

def label(contract: Contract) -> str:
    with Client("localhost:8500", contract=contract, tls=Tls(Path("ca.pem"))) as client:
        predictions: list[Prediction] = client.predict_many([Path("a.png"), np.zeros((28, 28), np.uint8)])
        outcomes: list[Prediction | TfshipError] = client.predict_many(["a.png"], errors="return")
        return predictions[0].label + str(outcomes) + client.predict(b"").label

async def score() -> float:
    async with AsyncClient("http://localhost:8501") as client:
        return (await client.predict("a.png")).score
""")
    (tmp_path / "wrong.py").write_text("""
from tfship.client import Client, Clinet
Client("localhost:8500", modle="cnn").predict(3).lable
""")
    python_of = f"--python-executable={tmp_path / 'venv' / 'bin' / 'python'}"
    options = ["--strict", "--cache-dir=/dev/null", python_of]
    command = [sys.executable, "-m", "mypy", *options, "right.py", "wrong.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    found = [line for line in done.stdout.splitlines() if ": error: " in line]
    kinds = sorted(line.rpartition("[")[2] for line in found)
    assert kinds == ["arg-type]", "attr-defined]", "attr-defined]", "call-arg]"], done.stdout + done.stderr
    assert {line.partition(":")[0] for line in found} == {"wrong.py"}


def test_a_model_in_this_process(site: Path, serving: Path, needed: Path, tmp_path: Path) -> None:
    done = tfship(tmp_path, "predict", SEVEN, *LOCAL, path=[site, serving])
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.startswith(f"{SEVEN}: 7 (")
    done = tfship(tmp_path, "predict", SEVEN, *LOCAL, path=[site, needed])
    assert (done.stdout, done.returncode) == ("", 2)
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "pip install 'tfship[tflite]'" in line


def test_versions_need_no_extra(site: Path, needed: Path, models: Path, tmp_path: Path) -> None:
    done = tfship(tmp_path, "versions", "list", "--models", models, "--json", path=[site, needed])
    assert (done.stderr, done.returncode) == ("", 0)
    assert {row["model"] for row in json.loads(done.stdout)} == {"nn", "cnn"}
    done = tfship(tmp_path, "versions", "c-source", "nn", "--models", models, path=[site, needed])
    assert (done.stderr, done.returncode) == ("", 0)
    assert {path.name for path in tmp_path.iterdir()} == {"nn_int8_uint8.h", "nn_int8_uint8.c"}


def test_errors_are_lines(site: Path, needed: Path, tmp_path: Path) -> None:
    done = tfship(tmp_path, "predict", "missing.png", "--server=127.0.0.1:1", path=[site, needed])
    assert (done.returncode, done.stderr) == (3, "error: missing.png: no such file\n")
