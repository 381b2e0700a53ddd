"""TFLite files: converted in child processes, checked, and run once. Loads TensorFlow."""

import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from ai_edge_litert.schema_py_generated import TensorType
from ai_edge_litert.tools import flatbuffer_utils
from numpy.typing import NDArray

from tfship.export.conversion import calibration, signature_metadata
from tfship.export.conversion.formats import Format
from tfship.export.conversion.saved_model_writer import serving_default
from tfship.export.preprocessing.input_contract import Contract, Scaling
from tfship.export.runtimes.isolation import Isolation
from tfship.export.runtimes.litert import LiteRT
from tfship.export.runtimes.protocol import DEFAULT_SIGNATURE, IMAGE, Classifier
from tfship.train.common import cli, tensorflow_loader
from tfship.train.common.errors import ArtifactError, ConversionError

__all__ = ["CALIBRATION_SECONDS", "TFLite"]

_OPERATORS = {
    "float32": tf.lite.OpsSet.TFLITE_BUILTINS,
    "int8": tf.lite.OpsSet.TFLITE_BUILTINS_INT8,
    "int16": tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
}
# Operators that change types and compute nothing.
_CASTS = {"CAST", "DEQUANTIZE"}
# How far the value of an integer input may be from the contract's, in steps: float32 rounding.
_EXACT = 1e-3
# The converter's own words, in its messages of many kilobytes.
_LACKING = re.compile(r"(?:TF Select|Custom) ops: ([^\n]+)")
_ERROR = re.compile(r"error: ([^\n]+)")
_UNSUPPORTED = "not yet supported for op"
_LONGEST = 200
# Calibration runs on slow kernels, and ends after this long. The first images are in it, whatever they take.
CALIBRATION_SECONDS, _FIRST = 40.0, 10


class TFLite:
    """The conversion of one model to TFLite files, each in a child process.

    `function` and `tracked` are as in `to_saved_model`. `batch` is the number of images that the model takes at a
    time, None for any. `calibration` is a file of pixels uint8 [N, H, W, C] as NumPy saves them, or None. `folder`
    is a temporary one for the SavedModels that the converter reads; `isolation` has the log and the time limit of a
    format.
    """

    def __init__(
        self,
        function: Callable[[tf.Tensor], tf.Tensor],
        tracked: Any,
        contract: Contract,
        calibration: Path | None,
        folder: Path,
        isolation: Isolation,
        batch: int | None = None,
    ) -> None:
        self._function, self._tracked, self._contract = function, tracked, contract
        self._calibration, self._folder, self._isolation = calibration, folder, isolation
        # A free batch is tried first. The first file that can be made decides for all.
        self._batches: tuple[int | None, ...] = (None, 1) if batch is None else (batch,)

    @property
    def batch(self) -> int | None:
        """The number of images that the files take at a time, None for any."""
        return self._batches[0]

    def write(self, row: Format, path: Path) -> int:
        """Write the model in the format of `row`, with the signature `serving_default`.

        Returns how many images it was calibrated with: a slow model is given as many as `CALIBRATION_SECONDS` allow.
        The child process also runs the file once in LiteRT. Raises ConversionError with the reason if the model
        can't be converted, LiteRT can't run the file, or the format needs calibration images and there are none.
        """
        if row.calibrated and self._calibration is None:
            raise ConversionError(
                f"{row.name}: needs images to find the activations' ranges; give --calibration"
            )
        end = time.monotonic() + self._isolation.seconds
        reason: ArtifactError | None = None
        for batch in self._batches:
            # Biases of 32 bits first: with 64, the default, every convolution runs on LiteRT's reference kernel.
            for wide in (False, True) if row.activations == "int16" else (False,):
                if (left := end - time.monotonic()) <= 0:
                    break
                try:
                    missing, calibrated = self._attempt(row, path, batch, wide, left)
                except ArtifactError as error:
                    path.unlink(missing_ok=True)
                    reason = error
                    continue
                if missing:
                    raise ConversionError(f"{row.name}: {missing}")
                self._batches = (batch,)
                return calibrated
        raise ConversionError(f"{row.name}: {reason}") from reason

    def _attempt(
        self, row: Format, path: Path, batch: int | None, wide: bool, seconds: float
    ) -> tuple[str, int]:
        """Write the file and return "" and the number of calibration images, or why no batch and no bias would help."""
        pixels = _folded(row, self._contract.scaling)
        source = self._source(batch, pixels)
        what = _Conversion(source, row, self._contract, self._calibration, batch, pixels, wide)
        answer: tuple[str, int] = self._isolation.run(
            "the converter", _write, what, path, seconds=seconds, about=row.name
        )
        return answer

    def _source(self, batch: int | None, pixels: bool) -> Path:
        """Return a SavedModel that has only `serving_default`, for `batch` images as pixels or as values.

        Not the published one: the converter would read all of it, twice, and nearly all of it decodes images.
        """
        folder = self._folder / f"{batch or 'any'}-{'pixels' if pixels else 'values'}"
        if not folder.exists():
            module = tf.Module()
            module.tracked = self._tracked
            scaling = self._contract.scaling
            function = (lambda image: self._function(scaling.apply(image))) if pixels else self._function
            serve = serving_default(function, self._contract, batch)
            try:
                with tensorflow_loader.quiet():
                    tf.saved_model.save(module, str(folder), signatures={DEFAULT_SIGNATURE: serve})
            except (tf.errors.OpError, TypeError, ValueError) as error:
                shutil.rmtree(folder, ignore_errors=True)
                raise ConversionError(
                    f"can't be traced for {batch or 'any number of'} images ({cli.one_line(error)[:200]})"
                ) from error
        return folder


@dataclass(frozen=True)
class _Conversion:
    """What to convert: the SavedModel `source`, whose one signature takes `batch` float32 images (None: any).

    With `pixels` these are values 0…255, otherwise the contract's. `calibration` is a file of pixels uint8
    [N, H, W, C]. With `wide`, 16-bit activations have biases of 64 bits, otherwise of 32.
    """

    source: Path
    row: Format
    contract: Contract
    calibration: Path | None
    batch: int | None
    pixels: bool
    wide: bool

    def images(self) -> NDArray[np.uint8]:
        """Return the calibration images, read from the file as they are used, or else noise."""
        if self.calibration is None:
            return np.random.default_rng(0).integers(0, 256, (2, *self.contract.shape), np.uint8)
        pixels: NDArray[np.uint8] = np.load(self.calibration, mmap_mode="r")
        return pixels

    def values(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return pixels [N, H, W, C] as the source takes them."""
        return pixels.astype(np.float32) if self.pixels else self.contract.scale(pixels)


def _folded(row: Format, scaling: Scaling) -> bool:
    """Return whether the scaling must become part of the graph, so that a uint8 input can take pixels.

    An input has one scale and one whole zero point. It holds the contract's values only if these are the same for
    all channels and the zero point is the pixel whose value is 0.
    """
    if row.edge != "uint8":
        return False
    if not scaling.uniform or scaling.scale[0] <= 0:
        return True
    zero_point = -scaling.offset[0] / scaling.scale[0]
    return abs(zero_point - round(zero_point)) > _EXACT or not 0 <= round(zero_point) <= 255


def _write(what: _Conversion, path: Path) -> tuple[str, int]:
    """Write the TFLite file `path`, having run it once, or return which integer kernels are missing.

    Also returns the number of calibration images. Raises ConversionError with any other reason.
    """
    try:
        data, calibrated = _converted(what)
    except ConversionError as error:
        if _UNSUPPORTED in str(error):
            return str(error), 0
        raise
    if what.row.calibrated and (floats := _computed_in_float(data)):
        # The converter says nothing of it, whatever operators it was told to use.
        return (
            f"{', '.join(floats)} would be computed in float32, for want of an integer kernel; the format "
            "selective may keep layers in float32",
            calibrated,
        )
    path.write_bytes(signature_metadata.add(data))
    try:
        _try(what, path)
    except ArtifactError as error:
        raise ConversionError(str(error).removeprefix(f"{path}: ")) from error
    return "", calibrated


def _converted(what: _Conversion) -> tuple[bytes, int]:
    """Return the TFLite file and the number of images that it was calibrated with."""
    row, calibrated = what.row, 0

    def one_by_one() -> Iterator[dict[str, Any]]:
        nonlocal calibrated
        images, end = what.images(), time.monotonic() + CALIBRATION_SECONDS
        for calibrated, index in enumerate(calibration.order(len(images)), 1):
            yield {IMAGE: what.values(images[index][np.newaxis])}
            if calibrated >= _FIRST and time.monotonic() > end:
                break

    converter = tf.lite.TFLiteConverter.from_saved_model(str(what.source), signature_keys=[DEFAULT_SIGNATURE])
    if row.weights != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if row.weights == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if row.calibrated:
        converter.representative_dataset = one_by_one
        converter.target_spec.supported_ops = [_OPERATORS[row.activations]]
    if row.activations == "int16" and not what.wide:
        converter._experimental_full_integer_quantization_bias_type = tf.int32
    converter.inference_input_type = converter.inference_output_type = tf.as_dtype(row.edge)
    try:
        with warnings.catch_warnings():
            # The converter's own calibrator uses the interpreter whose deprecation it announces.
            warnings.filterwarnings("ignore", message=r"\s*Warning: tf.lite.Interpreter is deprecated")
            data: bytes = converter.convert()
    except Exception as error:  # the converter raises its own and many built-in kinds
        raise ConversionError(_reason(error)) from error
    return data, calibrated


def _reason(error: Exception) -> str:
    """Return the sentence that matters in a converter's message, and what to do."""
    text = str(error)
    if lacking := _LACKING.findall(text):
        names = ", ".join(sorted({name.strip() for each in lacking for name in each.split(",")}))
        half = " on half-precision values" if re.search(r"xf16>", text) else ""
        return (
            f"needs TensorFlow operators that TFLite lacks{half}: {names}; replace the layers that use them, or "
            "serve the SavedModel"
        )
    if "requires element_shape to be static" in text:
        return "has a loop over rows whose shape isn't fixed, as recurrent layers have; serve the SavedModel"
    if "variable" in text and "mmutable" in text:
        return "changes a variable while it predicts, which TFLite can't; make it a constant, or serve the SavedModel"
    sentences = _ERROR.findall(text) or text.strip().splitlines() or [type(error).__name__]
    return f"the converter refuses the model: {cli.one_line(sentences[0])[:_LONGEST]}"


def _computed_in_float(data: bytes) -> list[str]:
    """Return the operators of a TFLite file that answer in float32, but for those that change types."""
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(data))
    return sorted(
        {
            flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex)
            for graph in model.subgraphs
            for operator in graph.operators
            if any(graph.tensors[index].type == TensorType.FLOAT32 for index in operator.outputs)
        }
        - _CASTS
    )


def _try(what: _Conversion, path: Path) -> None:
    """Run the file in LiteRT on as many images as it takes; ConversionError if it doesn't answer as it must."""
    runtime = LiteRT(path)
    images = what.images().take(range(what.batch or 2), axis=0, mode="wrap")
    if what.row.edge == "uint8":
        _check_input(what, runtime)
        answers = Classifier(runtime, str(path)).predict(images)
    else:
        answers = Classifier(runtime, str(path)).predict(what.values(images))
    expected = (len(images), len(what.contract.labels))
    if answers.shape != expected or not np.isfinite(answers).all():
        raise ConversionError(
            f"LiteRT answers {answers.shape} with {int((~np.isfinite(answers)).sum())} values that are no numbers; "
            f"expected finite {expected}"
        )


def _check_input(what: _Conversion, runtime: LiteRT) -> None:
    """Raise ConversionError unless the integers of the input stand for the values of the same pixels."""
    quantization = runtime.signatures[DEFAULT_SIGNATURE].inputs[IMAGE].quantization
    pixels = np.arange(256, dtype=np.uint8)
    scaling = what.contract.scaling
    wanted = pixels.astype(np.float64)
    if not what.pixels:
        wanted = wanted * scaling.scale[0] + scaling.offset[0]
    step = 1.0 if what.pixels else scaling.scale[0]
    if quantization is None or not np.allclose(
        quantization.dequantize(pixels), wanted, rtol=0, atol=_EXACT * abs(step) * 255
    ):
        raise ConversionError(
            f"its uint8 input would take pixels for other values ({quantization}); expected {wanted[0]:g} to "
            f"{wanted[-1]:g} in steps of {step:g}; calibrate with images of the full range, or leave the format out"
        )
