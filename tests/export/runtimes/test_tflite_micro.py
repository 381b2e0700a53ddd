import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfship.export import versions_command
from tfship.export.command import main as export
from tfship.export.conversion import formats
from tfship.export.publishing import cards, store
from tfship.export.runtimes import tflite_micro
from tfship.export.runtimes.litert import LiteRT
from tfship.export.runtimes.protocol import Classifier
from tfship.train.common import cli
from tfship.train.common.errors import ArtifactError
from tfship.train.data.datasets import Digits, to_input

needs_micro = pytest.mark.skipif(
    not tflite_micro.AVAILABLE, reason="tflite-micro is made for Linux on x86-64 only"
)
# A microcontroller has tens to hundreds of kilobytes of RAM; what was seen when this was asked for.
ARENAS = {
    ("nn", "int8"): 8_500,
    ("nn", "int8_uint8"): 6_300,  # no float copy of the image
    ("cnn", "int8"): 63_000,
    ("cnn", "int8_uint8"): 63_000,
}


@needs_micro
@pytest.mark.parametrize("name", ["nn", "cnn"])
@pytest.mark.parametrize(
    "row", [row for row in formats.FORMATS.values() if row.integer], ids=lambda row: row.name
)
def test_integer_files_run_in_tensorflow_lite_micro(
    models: Path, sample: Digits, name: str, row: formats.Format
) -> None:
    version = store.latest(models / name)
    path = version / row.file
    target = Classifier(LiteRT(path), str(path))
    tensors = target.prepare(to_input(sample.x_test[::20]))
    found = tflite_micro.predict(path, tensors)
    assert (found.argmax(1) == target.infer(tensors).argmax(1)).mean() >= 0.98
    (artefact,) = [each for each in cards.read(version).artefacts if each["format"] == row.name]
    assert artefact["micro"]["images"] == 100
    assert artefact["micro"]["agreement"] >= 0.98
    assert artefact["micro"]["arena_bytes"] == tflite_micro.arena(path)
    assert artefact["micro"]["arena_bytes"] == pytest.approx(ARENAS[name, row.name], rel=0.1)


@needs_micro
def test_a_file_that_micro_cannot_run(models: Path, tmp_path: Path) -> None:
    path = tmp_path / "short.tflite"
    path.write_bytes((store.latest(models / "nn") / "tflite" / "dynamic.tflite").read_bytes())
    with pytest.raises(ArtifactError, match="TensorFlow Lite Micro can't run it"):
        tflite_micro.predict(path, np.zeros((1, 28, 28, 1), np.float32))


@needs_micro
def test_an_abort_is_a_recorded_reason(tmp_path: Path) -> None:
    import keras

    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(600, "softmax", name="flat")]
    model = keras.Sequential(layers)
    model.layers[-1].kernel.assign(model.layers[-1].kernel * 0.01)
    model.save(tmp_path / "flat.keras")
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "eval.npz", x=images, y=np.arange(30))
    flags = [f"--{flag}={tmp_path / 'eval.npz'}" for flag in ("eval", "calibration")]
    own = [str(tmp_path / "flat.keras"), *flags, "--range=0,1", "--formats=int8", "--force"]
    assert cli.run(export, [*own, "--models", str(tmp_path)]) == 0
    version = store.latest(tmp_path / "flat")
    (artefact,) = [each for each in cards.read(version).artefacts if each["format"] == "int8"]
    assert artefact["micro"] == {"refused": "TensorFlow Lite Micro aborted: softmax over 600 classes"}


def test_c_source_compiles_and_holds_the_file(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        cli.run(versions_command.main, ["c-source", "nn", "--models", str(models), "--out", str(tmp_path)])
        == 0
    )
    header, source = map(Path, capsys.readouterr().out.split())
    assert (header.name, source.name) == ("nn_int8_uint8.h", "nn_int8_uint8.c")
    program = tmp_path / "main.c"
    program.write_text(
        '#include <stdint.h>\n#include <stdio.h>\n#include "nn_int8_uint8.h"\n'
        "int main(void) {\n  if ((uintptr_t)nn_int8_uint8_tflite % 16 != 0) return 1;\n"
        "  return fwrite(nn_int8_uint8_tflite, 1, nn_int8_uint8_tflite_len, stdout) != nn_int8_uint8_tflite_len;\n}\n"
    )
    for compiler, standard in (("gcc", "c99"), ("g++", "c++11")):
        flags = ["-Wall", "-Wextra", "-Werror", "-pedantic", f"-std={standard}"]
        binary = tmp_path / compiler
        subprocess.run(
            [compiler, *flags, str(program), str(source), "-o", str(binary)], check=True, cwd=tmp_path
        )
        printed = subprocess.run([binary], capture_output=True, check=True).stdout
        assert printed == (store.latest(models / "nn") / "tflite" / "int8_uint8.tflite").read_bytes()


@given(st.binary(max_size=40), st.text("ab-1_é", min_size=1, max_size=8))
def test_c_source_of_any_bytes_and_names(data: bytes, name: str) -> None:
    header, source = tflite_micro.c_source(data, name)
    values = source[source.index("{") + 1 : source.index("}")].replace("\n", "").split(",")
    assert bytes(int(value, 16) for value in values if value.strip()) == data
    symbol = header.split("extern const unsigned char ")[1].split("[")[0]
    assert symbol.isidentifier()
    assert symbol.isascii()
    assert f"{symbol}_len = {len(data)};" in source
