"""tfship-client: what `pip install ./client` makes, and that it needs nothing but what it says."""

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from benchmarks.server import Server, embedded
from client.draw_samples import FOLDER
from client.setup import collected, rewritten
from conftest import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import pip._vendor.tomli as tomllib

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("setuptools") is None, reason="setuptools isn't installed"
)

SEVEN = FOLDER / "seven.png"
RELEASED = ROOT / "models" / "released" / "cnn.int8.tflite"
GRPC = ("--target", "grpc")
LOCAL = (f"--target=tflite:{RELEASED}",)
OFFLINE = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check")


def described(folder: Path) -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    return project


DEPENDENCIES = [Requirement(each).name for each in described(ROOT / "client")["dependencies"]]


def pip(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    before = sorted((ROOT / "client").iterdir())
    done = pip("wheel", *OFFLINE, "--wheel-dir", folder, ROOT / "client")
    assert done.returncode == 0, done.stderr
    assert sorted((ROOT / "client").iterdir()) == before, "the build has left something in the clone"
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = pip("install", *OFFLINE, "--target", folder, wheel)
    assert done.returncode == 0, done.stderr
    return folder


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
    return linked(tmp_path_factory.mktemp("needed"), DEPENDENCIES)


@pytest.fixture(scope="module")
def with_tflite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return linked(tmp_path_factory.mktemp("tflite"), [*DEPENDENCIES, "ai-edge-litert"])


def python(folder: Path, *arguments: str | Path, path: Sequence[Path]) -> subprocess.CompletedProcess[str]:
    """Run Python in `folder`, with nothing but its own library and `path` to import from."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-S", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_nothing_but_tfship_client_is_installed(site: Path) -> None:
    names = {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")}
    assert names == {"tfship_client", "bin"}
    package = site / "tfship_client"
    inside = {path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file()}
    assert {"__init__.py", "py.typed", "LICENSE", "_tfship/export/descriptors.binpb"} <= inside
    assert not [name for name in inside if "sample" in name or name.startswith(("setup", "test"))]


def test_all_of_it_can_be_imported_with_what_it_needs(site: Path, needed: Path, tmp_path: Path) -> None:
    """Only a model in this process needs more, and only what the extras or their own messages name."""
    script = """
import importlib, pkgutil, sys, tfship_client
missing = set()
for module in pkgutil.walk_packages(tfship_client.__path__, "tfship_client."):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        missing.add(error.name.partition(".")[0])
assert missing <= {"ai_edge_litert", "tensorflow", "keras"}, missing
own = {"train", "export", "serving", "client"}
assert not own & set(sys.modules), own & set(sys.modules)
print("done")
"""
    done = python(tmp_path, "-c", script, path=[site, needed])
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[Server]:
    with embedded(models, ["cnn"], "--workers=1") as running:
        yield running


@pytest.mark.parametrize("way", [(), GRPC], ids=["rest", "grpc"])
def test_a_server_is_asked(
    site: Path, needed: Path, server: Server, way: tuple[str, ...], tmp_path: Path
) -> None:
    address = server.grpc if way else server.rest
    arguments = (str(SEVEN), "--json", *way, "--server", address)
    done = python(tmp_path, "-m", "tfship_client", *arguments, path=[site, needed])
    assert (done.stderr, done.returncode) == ("", 0)
    assert json.loads(done.stdout)["label"] == "7"


LIBRARY = """
import asyncio, sys
from tfship_client import AsyncClient, Client, DataError, Refused, TfshipError
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
    script = LIBRARY.format(imports="", with_tensorflow=False)
    addresses = (server.grpc, f"http://{server.rest}")
    done = python(tmp_path, "-W", "error", "-c", script, SEVEN, *addresses, path=[site, needed])
    assert (done.stdout, done.stderr, done.returncode) == ("7 7 7 7 ", "", 0)


def test_the_types_of_what_it_offers(site: Path, tmp_path: Path) -> None:
    """As mypy sees them from outside, strictly: `py.typed` is there, and nothing is Any that needn't be."""
    pytest.importorskip("mypy")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (packages / "tfship_client").symlink_to(site / "tfship_client")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    (tmp_path / "right.py").write_text("""
from pathlib import Path
import numpy as np
from tfship_client import AsyncClient, Client, Contract, Prediction, TfshipError, Tls

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
from tfship_client import Client, Clinet
Client("localhost:8500", modle="cnn").predict(3).lable
""")
    python_of = f"--python-executable={tmp_path / 'venv' / 'bin' / 'python'}"
    command = [sys.executable, "-m", "mypy", "--strict", python_of, "right.py", "wrong.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    found = [line for line in done.stdout.splitlines() if ": error: " in line]
    kinds = sorted(line.rpartition("[")[2] for line in found)
    assert kinds == ["arg-type]", "attr-defined]", "attr-defined]", "call-arg]"], done.stdout + done.stderr
    assert {line.partition(":")[0] for line in found} == {"wrong.py"}


def test_other_programs_import_tensorflow_too(
    site: Path, server: Server, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """TensorFlow Serving's own messages, of the same names, live in the same process."""
    names = [*DEPENDENCIES, "tensorflow", "tensorflow-serving-api"]
    both = linked(tmp_path_factory.mktemp("both"), names)
    imports = """
import tensorflow
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
assert predict_pb2.PredictRequest(inputs={"image": tensorflow.make_tensor_proto([1.0])}).ByteSize()
"""
    script = LIBRARY.format(imports=imports, with_tensorflow=True)
    addresses = (server.grpc, f"http://{server.rest}")
    done = python(tmp_path, "-c", script, SEVEN, *addresses, path=[site, both])
    assert (done.stdout, done.returncode) == ("7 7 7 7 ", 0), done.stderr


def test_a_model_in_this_process(site: Path, with_tflite: Path, tmp_path: Path) -> None:
    done = python(tmp_path, site / "bin" / "tfship-client", str(SEVEN), *LOCAL, path=[site, with_tflite])
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.startswith(f"{SEVEN}: 7 (")


def test_without_litert_a_model_in_this_process_is_refused(site: Path, needed: Path, tmp_path: Path) -> None:
    done = python(tmp_path, "-m", "tfship_client", str(SEVEN), *LOCAL, path=[site, needed])
    assert (done.stdout, done.returncode) == ("", 2)
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "pip install ai-edge-litert" in line


def test_a_process_with_packages_of_the_same_names(
    site: Path, needed: Path, server: Server, tmp_path: Path
) -> None:
    for name in ("train", "export", "serving", "client"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"mine = {name!r}\n")
    script = """
import sys
import client, export, serving, train
import tfship_client.grpc, tfship_client.predict
assert (client.mine, export.mine, serving.mine, train.mine) == ("client", "export", "serving", "train")
assert not [name for name in sys.modules if name.startswith(("client.", "export.", "serving.", "train."))]
sys.exit(tfship_client.predict.main(sys.argv[1:]))
"""
    arguments = (str(SEVEN), *GRPC, "--server", server.grpc)
    done = python(tmp_path, "-c", script, *arguments, path=[tmp_path, site, needed])
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.startswith(f"{SEVEN}: 7 (")


def test_errors_are_lines_and_help_names_the_command(site: Path, needed: Path, tmp_path: Path) -> None:
    command = site / "bin" / "tfship-client"
    done = python(tmp_path, command, "missing.png", "--server=127.0.0.1:1", path=[site, needed])
    assert (done.returncode, done.stderr) == (3, "error: missing.png: no such file\n")
    assert "usage: tfship-client" in python(tmp_path, command, "--help", path=[site, needed]).stdout


def test_what_it_needs_is_what_tfship_needs() -> None:
    """The bounds are chosen in one place, and repeated in the other."""
    whole, client = described(ROOT), described(ROOT / "client")
    extras = [each for extra in client["optional-dependencies"].values() for each in extra]
    assert {*client["dependencies"], *extras} <= set(whole["dependencies"])
    assert client["version"] == whole["version"]
    assert client["requires-python"] == whole["requires-python"]


def test_a_source_distribution_makes_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    script = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", script, tmp_path],
        cwd=ROOT / "client",
        check=True,
        capture_output=True,
    )
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert {path.as_posix() for path in collected(ROOT)} <= names
    done = pip("wheel", *OFFLINE, "--wheel-dir", tmp_path, archive)
    assert done.returncode == 0, done.stderr
    (again,) = tmp_path.glob("*.whl")
    for each in (wheel, again):
        shutil.unpack_archive(each, tmp_path / each.parent.name, "zip")
    first, second = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / wheel.parent.name, tmp_path / again.parent.name)
    )
    assert first == second


@pytest.mark.parametrize("flag", [(), ("--editable",)], ids=["a part of a clone", "editable"])
def test_what_cannot_be_built_says_why(flag: tuple[str, ...], tmp_path: Path) -> None:
    alone = tmp_path / "clone" / "client"
    shutil.copytree(ROOT / "client", alone, ignore=shutil.ignore_patterns("__pycache__"))
    done = pip("install", *OFFLINE, "--target", tmp_path / "site", *flag, alone)
    assert done.returncode != 0
    reason = (
        "can't be installed as editable; install it without -e"
        if flag
        else "build tfship-client in a whole clone"
    )
    assert reason in done.stderr
    assert not (tmp_path / "site" / "tfship_client").exists()


def test_imports_are_rewritten_and_nothing_else() -> None:
    source = '''
"""from train import nothing: words, like client and serving."""
from client.connection import (
    Connection,  # from export
)
from export import contract as rules
import serving.protos as protos, json
from . import beside
from trained import it

train = f"{'\u00e9' * 3}"; from train import cli

def later(kind: str) -> object:
    from serving.stubs import Stub
    import importlib
    return importlib.import_module(f"client.{kind}"), importlib.import_module("train.errors"), "client.x"
'''
    expected = source
    for old, new in (
        ("from client.connection", "from tfship_client.connection"),
        ("from export import contract", "from tfship_client._tfship.export import contract"),
        ("import serving.protos as", "import tfship_client._tfship.serving.protos as"),
        ("; from train import cli", "; from tfship_client._tfship.train import cli"),
        ("from serving.stubs", "from tfship_client._tfship.serving.stubs"),
        ('f"client.{kind}"', 'f"tfship_client.{kind}"'),
        ('"train.errors"', '"tfship_client._tfship.train.errors"'),
    ):
        assert old in expected
        expected = expected.replace(old, new)
    assert rewritten(source.encode(), "test").decode() == expected
    with pytest.raises(SystemExit, match=r"error: test:2: import train\.errors; expected from train import"):
        rewritten(b"\nimport train.errors\n", "test")
