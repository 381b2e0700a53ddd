"""The README's commands, those on one's own model by the installed wheel, in a folder that holds nothing else."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from conftest import ROOT
from photo_fixtures import NAMES, SIZE, patches, photos
from serving_fixtures import eventually

# The README's commands for a model of one's own, in their order.
COMMANDS = re.search(
    r"## Quick start: your own model\n+```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
)


class Installed:
    """The wheel, installed outside the repository, with the packages of this environment."""

    def __init__(self, site: Path) -> None:
        self.command: list[str | Path] = [sys.executable, site / "bin" / "tfship"]
        # Before the checkout, which this environment has installed.
        self.environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}

    def run(self, folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.command, *arguments],
            cwd=folder, env=self.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def __call__(self, folder: Path, *arguments: str | Path) -> str:
        """Run a command in `folder` and return what it prints."""
        done = self.run(folder, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def tfship(site: Path) -> Installed:
    installed = Installed(site)
    where = (
        "import tfship.train, tfship.benchmarks.suite as suite; print(tfship.train.__file__, suite.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", where],
        cwd=site,
        env=installed.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert all(Path(each).is_relative_to(site) for each in done.stdout.split())
    return installed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with my.keras, photographs by class, and one photograph."""
    from tfship.train.common.tensorflow_loader import tensorflow

    tensorflow()
    import keras

    path = tmp_path_factory.mktemp("mine")
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.layers.Input((SIZE, SIZE, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(16, 3, strides=2, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(len(NAMES), "softmax"),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", jit_compile=False)
    x, y = patches(400, 0)
    model.fit(x, y, batch_size=16, epochs=10, verbose=0)
    model.save(path / "my.keras")
    (path / "labels.txt").write_text("".join(f"{name}\n" for name in NAMES))
    for place, count, seed in (("test", 60, 1), ("train", 30, 2)):
        for number, (image, truth) in enumerate(zip(*patches(count, seed), strict=True)):
            file = path / "photos" / place / NAMES[truth] / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)
    Image.fromarray(photos()[2]).crop((100, 100, 260, 260)).save(path / "cat.jpg")
    return path


def test_the_commands_of_the_readme(tfship: Installed, folder: Path) -> None:
    assert COMMANDS is not None
    lines = [shlex.split(line, comments=True)[1:] for line in COMMANDS[1].splitlines()]
    export, serve, predict, compare, score, benchmark = lines
    # In less time than with all formats.
    shown = tfship(folder, *export, "--labels=labels.txt", "--formats=float32,int8")
    assert "verified on 60 images (test)" in shown
    assert (folder / "models" / "my" / "1" / "saved_model.pb").is_file()
    (row,) = json.loads(tfship(folder, "versions", "list", "--json"))
    assert (row["model"], row["version"]) == ("my", 1)

    ready = folder / "ready.json"
    server = subprocess.Popen(
        [*tfship.command, *serve, "--rest_api_port=-1", "--port=-1", "--workers=1", f"--ready_file={ready}"],
        cwd=folder, env=tfship.environment, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        eventually(lambda: ready.exists() or server.poll() is not None)
        ports = json.loads(ready.read_text())
        rest, grpc = (f"127.0.0.1:{ports[each]}" for each in ("rest_port", "grpc_port"))
        for target in (
            ["--server", rest],
            ["--target", "grpc", "--server", grpc],
            ["--target", "tflite:int8"],
        ):
            assert json.loads(tfship(folder, *predict, "--json", *target))["label"] == "flower"
        targets = f"--targets=rest@{rest},grpc@{grpc},tflite,savedmodel"
        assert not json.loads(tfship(folder, *compare, "--json", targets))["skew"]
        assert "my" in tfship(folder, "doctor", "--rest", rest, "--grpc", grpc)
    finally:
        server.send_signal(signal.SIGTERM)
    assert server.wait() == 0

    assert json.loads(tfship(folder, *score, "--json"))["images"] == 90
    assert (folder / "scores.parquet").is_file()

    tfship(folder, *benchmark, "--quick")
    page = folder / "benchmarks" / "out" / "report.html"
    assert page.is_file()
    page.unlink()
    tfship(folder, "report")
    assert page.is_file()


def test_the_other_commands_of_the_readme_are_run_by_continuous_integration() -> None:
    readme, script = (ROOT / "README.md").read_text(), (ROOT / ".ci" / "run").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", readme, re.DOTALL)
    others = {
        shlex.join(shlex.split(line, comments=True))
        for block in blocks
        if COMMANDS is None or block != COMMANDS[1]
        for line in block.splitlines()
    }
    # `make install` does what pip does, from the lock; test_packaging.py installs the wheel with and without extras.
    installing = {"pip install '.[all]'", "pip install ."}
    assert installing < others
    ran = {line.strip().removesuffix(" &") for line in script.splitlines()}
    assert {each for each in others - installing if each.replace(".venv", "$VENV") not in ran} == set()


def test_commands_that_find_no_model_say_so(tfship: Installed, tmp_path: Path) -> None:
    for command, words in (
        (["serve"], "no model: models holds no exported version; run `tfship export` first"),
        (["versions", "list"], "models: holds no exported version; run `tfship export` first"),
        (["predict", "--target=tflite", "x.png"], "x.png: no such file"),
        (["benchmark", "--quick"], "run `tfship export` first"),
    ):
        done = tfship.run(tmp_path, *command)
        assert done.returncode in (2, 3, 4)
        assert words in done.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_of_several_models_one_must_be_named(tfship: Installed, folder: Path, tmp_path: Path) -> None:
    for name in ("one", "other"):
        shutil.copytree(folder / "models" / "my", tmp_path / "models" / name)
    done = tfship.run(tmp_path, "predict", folder / "cat.jpg", "--target=tflite")
    assert (done.returncode, done.stderr) == (2, "error: models holds one, other; give one by --model\n")
