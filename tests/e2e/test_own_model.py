"""The commands on a model of one's own, in a folder that holds nothing else, each in a process of its own."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from photo_fixtures import NAMES, SIZE, patches, photos
from serving_fixtures import eventually

TFSHIP = Path(sys.executable).with_name("tfship")


def tfship(folder: Path, *arguments: str) -> str:
    """Run a command in `folder` and return what it prints."""
    done = subprocess.run([TFSHIP, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


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
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    x, y = patches(600, 0)
    model.fit(x, y, epochs=6, verbose=0)
    model.save(path / "my.keras")
    (path / "labels.txt").write_text("".join(f"{name}\n" for name in NAMES))
    for number, (image, truth) in enumerate(zip(*patches(90, 1), strict=True)):
        file = path / "photos" / NAMES[truth] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    Image.fromarray(photos()[2]).crop((100, 100, 260, 260)).save(path / "flower.jpg")
    return path


def test_every_command(folder: Path) -> None:
    shown = tfship(folder, "export", "my.keras", "--eval=photos", "--labels=labels.txt", "--formats=float32,int8",
                   "--calibration=photos")  # fmt: skip
    assert "verified on 90 images (photos)" in shown
    assert (folder / "models" / "my" / "1" / "saved_model.pb").is_file()
    (row,) = json.loads(tfship(folder, "versions", "list", "--json"))
    assert (row["model"], row["version"]) == ("my", 1)

    ready = folder / "ready.json"
    server = subprocess.Popen(
        [TFSHIP, "serve", "--rest_api_port=-1", "--port=-1", "--workers=1", f"--ready_file={ready}"],
        cwd=folder, stdout=subprocess.DEVNULL,
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
            assert json.loads(tfship(folder, "predict", "flower.jpg", "--json", *target))["label"] == "flower"
        compared = json.loads(
            tfship(
                folder,
                "compare",
                "flower.jpg",
                "--json",
                f"--targets=rest@{rest},grpc@{grpc},tflite,savedmodel",
            )
        )
        assert not compared["skew"]
        assert "my" in tfship(folder, "doctor", "--rest", rest, "--grpc", grpc)
    finally:
        server.send_signal(signal.SIGTERM)
    assert server.wait() == 0

    tfship(folder, "benchmark", "--quick", "--data=photos")
    page = folder / "benchmarks" / "out" / "report.html"
    assert page.is_file()
    page.unlink()
    tfship(folder, "report")
    assert page.is_file()


def test_commands_that_find_no_model_say_so(tmp_path: Path) -> None:
    for command, words in (
        (["serve"], "no model: models holds no exported version; run `tfship export` first"),
        (["versions", "list"], "models: holds no exported version; run `tfship export` first"),
        (["predict", "--target=tflite", "x.png"], "x.png: no such file"),
        (["benchmark", "--quick"], "run `tfship export` first"),
    ):
        done = subprocess.run([TFSHIP, *command], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode in (2, 3, 4)
        assert words in done.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_of_several_models_one_must_be_named(folder: Path, tmp_path: Path) -> None:
    for name in ("one", "other"):
        shutil.copytree(folder / "models" / "my", tmp_path / "models" / name)
    done = subprocess.run(
        [TFSHIP, "predict", folder / "flower.jpg", "--target=tflite"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (2, "error: models holds one, other; name one by --model\n")
