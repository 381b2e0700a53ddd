"""Models of other people's kind, and what is right for them: the files in ../shared/cases, where they are there."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from conftest import ROOT
from tfship.export.command import main
from tfship.export.conversion.formats import FORMATS
from tfship.export.preprocessing import input_contract, outputs
from tfship.export.publishing import cards, store, verification
from tfship.train.common import cli

CASES = ROOT.parent / "shared" / "cases"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="no ../shared/cases here")
# More than this on a terminal isn't read.
MOST_LINES = 40


def export(folder: Path, model: str, eval_: str, *arguments: str, name: str = "case") -> int:
    data = folder / eval_ if (folder / eval_).exists() else CASES / eval_
    own = ["--eval", str(data), "--name", name, "--models", str(folder / "models")]
    return cli.run(main, [str(CASES / model), *own, *arguments])


def answered(version: Path, format_name: str, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return what an exported file says of pixels, by the contract beside it."""
    rules = input_contract.read(version)
    target = (
        verification.open_saved_model(version)
        if format_name == cards.SAVED_MODEL
        else verification.open_tflite(version, FORMATS[format_name])
    )
    try:
        scale = (lambda images: images) if target.takes_pixels else rules.scale
        return verification.predict_all([target], pixels.reshape(-1, *rules.shape), "", scale)
    finally:
        target.close()


@pytest.mark.parametrize(
    ("model", "eval_", "integer", "values", "kind", "accuracy"),
    [
        ("tf_tutorial_flowers.keras", "eval_32.npz", "int8_uint8", "0…255", "logits", 0.72),
        ("norm_01.keras", "eval_grey.npz", "int8", "0…1", "probabilities", 0.82),
        ("resizing_first.keras", "eval_resizing.npz", None, "0…255", "probabilities", 0.87),
        ("normalization_saved_model", "eval_grey.npz", None, "0…255", "probabilities", 0.82),
        ("mixed16_out16.keras", "eval_grey.npz", "int8_uint8", "0…1", "probabilities", 0.82),
        ("lstm_rows.keras", "eval_grey.npz", None, "0…1", "probabilities", 0.715),
        ("multilabel.keras", "eval_multilabel.npz", "int8_uint8", "0…1", "independent", 0.9425),
        ("bin_sigmoid.keras", "eval_bin.npz", "int8", "0…1", "sigmoid", 0.865),
    ],
)
def test_it_answers_as_the_original_does(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    model: str,
    eval_: str,
    integer: str | None,
    values: str,
    kind: str,
    accuracy: float,
) -> None:
    with np.load(CASES / "eval_grey.npz") as arrays:
        np.savez(tmp_path / "eval_bin.npz", x=arrays["x"], y=(arrays["y"] >= 5).astype(int))
    # One with a calibration shows what the kind of model makes of it; where it isn't about that, none does.
    calibration = CASES / ("calibration_32.npz" if eval_ == "eval_32.npz" else "calibration_grey.npz")
    names = ["float32", integer] if integer else ["float32"]
    chosen = ["--calibration", str(calibration)] if integer else []
    assert export(tmp_path, model, eval_, *chosen, "--formats", ",".join(names)) == 0
    said = capsys.readouterr()
    assert len((said.out + said.err).splitlines()) <= MOST_LINES
    version = store.latest(tmp_path / "models" / "case")
    card = cards.read(version)
    assert not card.unconverted
    assert (card.detected["values"], card.detected["outputs"]) == (values, kind)
    assert card.keras_accuracy["value"] == pytest.approx(accuracy, abs=1e-6)
    assert card.blessing["blessed"]
    truth = CASES / f"truth_{model.removesuffix('.keras')}.npz"
    path = tmp_path / eval_ if (tmp_path / eval_).exists() else CASES / eval_
    with np.load(path) as arrays:
        pixels = arrays["x"]
    if not truth.is_file():
        return
    with np.load(truth) as arrays:
        right = arrays["p"]
    if kind == "logits":
        right = np.exp(right - right.max(1, keepdims=True))
        right /= right.sum(1, keepdims=True)
    if kind == "sigmoid":
        right = np.concatenate([1 - right, right], 1)
    close = 5e-3 if model.startswith("mixed16") else 1e-4
    for format_name in (cards.SAVED_MODEL, "float32"):
        np.testing.assert_allclose(answered(version, format_name, pixels), right, atol=close)
    for format_name in names[1:]:
        several = kind == "independent"
        decided = outputs.decisions(answered(version, format_name, pixels), several=several)
        assert (decided == outputs.decisions(right, several=several)).mean() >= 0.97


def test_a_regression_is_no_classifier(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(tmp_path, "regression2.keras", "eval_grey.npz") == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "holds class 9, but the model has 2 classes; a model with linear outputs that " in line
    assert "model.export('models/NAME/1')" in line
    assert not (tmp_path / "models" / "case").exists()


def test_a_custom_layer_is_named_with_both_ways_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(tmp_path, "custom_layer.keras", "eval_grey.npz") == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert "--import" in line
    assert "model.export(" in line


def test_a_small_set_refuses_only_what_a_test_supports(tmp_path: Path) -> None:
    calibration = ("--calibration", str(CASES / "calibration_32.npz"))
    chosen = ("--formats", "float32,dynamic,float16,selective", "--selective-seconds", "5")
    assert export(tmp_path, "mixer.keras", "eval_32.npz", *calibration, *chosen) == 0
    card = cards.read(store.latest(tmp_path / "models" / "case"))
    assert {"savedmodel", "float32", "dynamic", "float16"} <= {each["format"] for each in card.artefacts}
    assert not card.withheld
