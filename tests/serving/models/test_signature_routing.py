"""Which runtime answers which signature of a version, by its export card and by --runtime."""

import contextlib
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from conftest import ROOT
from serving_fixtures import ROW, config_of, serving, tflite_times, tiny_models, to_tflite, value
from tfship.export.conversion.formats import FORMATS
from tfship.export.publishing import cards
from tfship.export.publishing.cards import CARD, DIFFERENCE, ExportCard
from tfship.export.runtimes.protocol import DEFAULT_SIGNATURE, PREDICT, Signature, TensorSpec
from tfship.export.runtimes.saved_model import SavedModel
from tfship.serving.inference import execution
from tfship.serving.inference.batching_config import BatchingParameters
from tfship.serving.inference.execution import Loaded
from tfship.serving.inference.request_context import Call
from tfship.serving.models import served_file
from tfship.serving.models.loader import Loader
from tfship.serving.models.signature_routing import RoutedRuntime, have_same_tensors
from tfship.serving.server import flag_settings, flags
from tfship.serving.server.model_server import Settings
from tfship.train.common.errors import UsageError

FILE = FORMATS["float32"].file
# A shape that isn't the signature's, which TensorFlow accepts.
DEEP = ROW[np.newaxis]


def version(folder: Path, content: bytes, model: str = "double", difference: Any = 1e-6) -> Path:
    """Return a version of a tiny SavedModel with a float32 file and a card; `difference` None: of an older release.

    The card claims that they are equal; the tests' files aren't, which tells who has answered.
    """
    path = folder / "m" / "1"
    shutil.copytree(tiny_models() / model / "1", path)
    (path / "tflite").mkdir()
    (path / FILE).write_bytes(content)
    write_card(path, difference)
    return path


def write_card(path: Path, difference: Any) -> None:
    figures = {"format": "float32"} | ({} if difference is None else {DIFFERENCE: difference})
    names = "data calibration keras_accuracy unconverted blessing layers seconds environment"
    empty: dict[str, Any] = {name: {} for name in names.split()}
    ExportCard(
        model="m", created="", keras_sha256="", request="", classes=[], equalized=[], warmup=[], serves="float32",
        artefacts=[figures], files=cards.listing(path), **empty,
    ).write(path)  # fmt: skip


@pytest.fixture
def threefold(tmp_path: Path) -> Path:
    """A version that doubles in TensorFlow and takes three times its input in LiteRT."""
    return version(tmp_path, tflite_times(3))


@contextlib.contextmanager
def opened(path: Path, loader: Loader | None = None) -> Iterator[Loaded]:
    loaded = (loader or Loader()).load(path)
    try:
        yield loaded
    finally:
        loaded.runtime.close()


def answer(loaded: Loaded, row: NDArray[np.float32] = ROW) -> tuple[float, str]:
    """Return what the version multiplies with, and the runtime that the request's metrics name."""
    call = Call("Predict", "GRPC")
    execution.check_inputs(loaded, DEFAULT_SIGNATURE, {"x": row})
    output = execution.run(loaded, DEFAULT_SIGNATURE, {"x": row}, call)["y"]
    assert output.shape == row.shape
    return float(output.ravel()[0] / row.ravel()[0]), call.runtime


def test_tflite_answers_if_the_card_shows_that_it_is_equal(threefold: Path) -> None:
    assert served_file.find_equal(threefold) == threefold / FILE
    with opened(threefold) as loaded:
        assert answer(loaded) == (3, "TFLite")
        assert loaded.notes == (
            "TFLite (tflite/float32.tflite) answers serving_default, and TensorFlow answers requests of other shapes",
        )
        # The definitions are the SavedModel's.
        with contextlib.closing(SavedModel(threefold)) as saved_model:
            assert loaded.runtime.signatures == saved_model.signatures


def test_tensorflow_answers_other_shapes_that_it_accepts(threefold: Path) -> None:
    with opened(threefold) as loaded:
        assert loaded.any_shape
        assert answer(loaded, DEEP)[0] == 2


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_batches_run_in_tflite(threefold: Path, rows: int) -> None:
    loader = Loader(batching=BatchingParameters(max_batch_size=8))
    with opened(threefold, loader) as loaded:
        batch = np.ones((rows, 2), np.float32)
        np.testing.assert_array_equal(execution.run(loaded, DEFAULT_SIGNATURE, {"x": batch})["y"], 3 * batch)
        assert answer(loaded, DEEP)[0] == 2


def change_value(path: Path) -> None:
    text = (path / CARD).read_text()
    assert "1e-06" in text
    (path / CARD).write_text(text.replace("1e-06", "1e-07"))


DOUBTS: dict[str, Callable[[Path], object]] = {
    "no card": lambda path: (path / CARD).unlink(),
    "changed card": change_value,
    "no JSON": lambda path: (path / CARD).write_text("{"),
    "deep JSON": lambda path: (path / CARD).write_text("[" * 100_000),
    "older card": lambda path: write_card(path, None),
    "too different": lambda path: write_card(path, 1.1e-5),
    "no figure": lambda path: write_card(path, "0"),
    "changed file": lambda path: (path / FILE).write_bytes(tflite_times(7)),
    "no file": lambda path: (path / FILE).unlink(),
    "another variable": lambda path: (path / "variables" / "more").touch(),
    "changed graph": lambda path: (path / "saved_model.pb").write_bytes(
        (path / "saved_model.pb").read_bytes() + b"\x08\x01"
    ),
}


@pytest.mark.parametrize("doubt", DOUBTS)
def test_tensorflow_answers_if_the_card_does_not_show_it(threefold: Path, doubt: str) -> None:
    DOUBTS[doubt](threefold)
    assert served_file.find_equal(threefold) is None
    with opened(threefold) as loaded:
        assert answer(loaded) == (2, "TF1")
        assert loaded.notes == ("TensorFlow answers all requests",)


MISFITS: dict[str, Callable[[], bytes]] = {
    "damaged": lambda: b"no TFLite file",
    "other names": lambda: to_tflite(lambda z: {"y": 2 * z}, z=[None, 2]),
    "other shapes": lambda: to_tflite(lambda x: {"y": 2 * x}, x=[1, 2, 1]),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_tensorflow_answers_if_the_file_does_not_fit(tmp_path: Path, misfit: str) -> None:
    with opened(version(tmp_path, MISFITS[misfit]())) as loaded:
        assert answer(loaded) == (2, "TF1")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], (3, "TFLite")),
        (["--runtime=auto"], (3, "TFLite")),
        (["--runtime=savedmodel"], (2, "TF1")),
        (["--runtime=tflite"], (3, "TFLite")),
        (["--prefer_tflite_model"], (3, "TFLite")),
        (["--prefer_tflite_model", "--runtime=tflite"], (3, "TFLite")),
        (["--prefer_tflite_model=false", "--runtime=savedmodel"], (2, "TF1")),
    ],
)
def test_flags(threefold: Path, argv: list[str], expected: tuple[float, str]) -> None:
    with opened(threefold, flag_settings.settings(flags.parse([*argv, "--workers=0"])).loader) as loaded:
        assert answer(loaded) == expected


@pytest.mark.parametrize("runtime", ["auto", "savedmodel"])
def test_conflicting_flags(runtime: str) -> None:
    with pytest.raises(UsageError, match=f"means --runtime=tflite, and --runtime={runtime} is set; pass one"):
        flag_settings.settings(flags.parse(["--prefer_tflite_model", f"--runtime={runtime}", "--workers=0"]))


def test_unknown_runtime(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        flags.parse(["--runtime=onnx"])
    assert "'onnx': expected auto, savedmodel or tflite" in capsys.readouterr().err


def test_other_tags_are_another_graph(threefold: Path) -> None:
    with opened(threefold, Loader(tags=("serve", "serve"))) as loaded:
        assert answer(loaded)[0] == 2


def test_tensorflow_is_not_loaded_without_need(tmp_path: Path) -> None:
    """The model `conv` has no other signature, and its operators don't check shapes, so that the server does."""
    path = version(
        tmp_path, to_tflite(lambda image: {"y": 3 * image[:, :2, :2]}, image=[None, 4, 4, 1]), "conv"
    )
    script = f"""
import sys
from pathlib import Path
import numpy as np
from tfship.serving.inference import execution
from tfship.serving.models.loader import Loader
from tfship.serving.protos.status import StatusError
loaded = Loader().load(Path({str(path)!r}))
print(execution.run(loaded, "serving_default", {{"image": np.ones((1, 4, 4, 1), np.float32)}})["y"].ravel())
try:
    execution.check_inputs(loaded, "serving_default", {{"image": np.ones((1, 4, 4), np.float32)}})
except StatusError as error:
    print(error)
print(loaded.runtime.signatures["serving_default"].outputs["y"].name, *loaded.notes, "tensorflow" in sys.modules)
loaded.runtime.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "[3. 3. 3. 3.]",
        "input image has shape [1, 4, 4]; its signature expects [-1, 4, 4, 1] (-1: any size)",
        "PartitionedCall:0 TFLite (tflite/float32.tflite) answers serving_default False",
    ]


def test_a_server_reports_the_runtime(threefold: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tfship")
    with serving(config_of(m=threefold.parent), Settings(metrics_path="")) as client:
        assert client.predict("m", x=ROW)["y"][0, 0] == 3 * ROW[0, 0]
        status, page = client.rest("/monitoring/prometheus/metrics")
        assert status == 200
        labels = {"model_name": "m", "API": "Predict"}
        name = ":tensorflow:serving:runtime_latency_count"
        assert value(page, name, **labels, runtime="TFLite") == 1
        assert value(page, name, **labels, runtime="TF1") is None
    assert "model m version 1: TFLite (tflite/float32.tflite) answers serving_default" in caplog.text


class Fake:
    """A runtime that returns its name, and counts how often it is closed."""

    signatures: dict[str, Signature] = {}  # noqa: RUF012

    def __init__(self, name: str) -> None:
        self.name, self.closed = name, 0

    def run(self, _: str, inputs: Any) -> dict[str, Any]:
        return {"name": self.name, "inputs": inputs}

    def close(self) -> None:
        self.closed += 1


def test_routes() -> None:
    pair = Signature(
        {"a": TensorSpec("a:0", 1, (-1, 2)), "b": TensorSpec("b:0", 1, None)},
        {"c": TensorSpec("c:0", 1, (-1,))},
        PREDICT,
    )
    assert have_same_tensors(pair, pair)
    other = Signature(pair.inputs, {"c": TensorSpec("c:0", 1, (-1, 1))}, PREDICT)
    assert not have_same_tensors(pair, other)
    assert not have_same_tensors(pair, Signature({"a": pair.inputs["a"]}, pair.outputs, PREDICT))
    ones = np.ones((1, 2), np.float32)
    saved_model, fast = Fake("TensorFlow"), Fake("TFLite")
    runtime = RoutedRuntime({"x": pair, "y": pair, "z": pair}, saved_model, {"x": fast, "y": fast})
    answers = {name: runtime.run(name, {"a": ones, "b": ones})["name"] for name in ("x", "y", "z")}
    assert answers == {"x": "TFLite", "y": "TFLite", "z": "TensorFlow"}
    assert runtime.run("x", {"a": ones[0], "b": ones})["name"] == "TensorFlow"
    runtime.close()
    assert (saved_model.closed, fast.closed) == (1, 1)
    alone = RoutedRuntime({"x": pair, "z": pair}, None, {"x": fast})
    assert alone.run("x", {"a": ones[0], "b": ones})["name"] == "TFLite"
    with pytest.raises(ValueError, match="there is no signature z that can be run"):
        alone.run("z", {"a": ones, "b": ones})
    alone.close()
