"""Conversion to TFLite in child processes; each file is checked and run once. Loads TensorFlow."""

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
# Operators that only convert types.
_CASTS = {"CAST", "DEQUANTIZE"}
# Tolerance for the values of an integer input, in quantization steps: float32 rounding.
_EXACT = 1e-3
# Patterns of the relevant parts in the converter's messages, which have many kilobytes.
_LACKING = re.compile(r"(?:TF Select|Custom) ops: ([^\n]+)")
_ERROR = re.compile(r"error: ([^\n]+)")
_UNSUPPORTED = "not yet supported for op"
_LONGEST = 200
# Calibration runs on slow kernels and ends after `CALIBRATION_SECONDS`, but uses at least the `_FIRST` images.
CALIBRATION_SECONDS, _FIRST = 40.0, 10


class TFLite:
    """Converter of one model to TFLite files, each in a child process.

    `function` and `tracked` are as in `to_saved_model`. `calibration` is an `.npy` file of pixels uint8 [N, H, W, C],
    or None. `folder` is a temporary folder for the SavedModels that the converter reads. `isolation` has the log and
    the time limit per format. `batch` is the model's batch size, None if it is free.
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
        # A free batch is tried first. The first successful conversion sets the batch of all files.
        self._batches: tuple[int | None, ...] = (None, 1) if batch is None else (batch,)

    @property
    def batch(self) -> int | None:
        """The batch size of the files, None if it is free."""
        return self._batches[0]

    def write(self, row: Format, path: Path) -> int:
        """Write the model to `path` in the format `row`, with the signature `serving_default`.

        Returns the number of calibration images used; `CALIBRATION_SECONDS` limits it for slow models. The child
        process also runs the file once in LiteRT. Raises ConversionError if the model can't be converted,
        LiteRT can't run the file, or the format needs calibration images and there are none.
        """
        if row.calibrated and self._calibration is None:
            raise ConversionError(
                f"{row.name}: needs calibration images for the activations' ranges; pass --calibration"
            )
        end = time.monotonic() + self._isolation.seconds
        reason: ArtifactError | None = None
        for batch in self._batches:
            # 32-bit biases first: with 64 bits, the default, convolutions run on LiteRT's slow reference kernel.
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
        """Write the file; return the reason why no other attempt can succeed, or "", and the calibration images used.

        Raises ArtifactError if another batch or bias width may succeed.
        """
        pixels = _folded(row, self._contract.scaling)
        source = self._source(batch, pixels)
        what = _Conversion(source, row, self._contract, self._calibration, batch, pixels, wide)
        result: tuple[str, int] = self._isolation.run(
            "the converter", _write, what, path, seconds=seconds, subject=row.name
        )
        return result

    def _source(self, batch: int | None, pixels: bool) -> Path:
        """Return the path of a SavedModel with only `serving_default`, which takes `batch` images as pixels or values.

        The published SavedModel isn't used: the converter would read it twice, and most of it decodes images.
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
    """Parameters of one conversion.

    The only signature of the SavedModel `source` takes `batch` float32 images (None: any number). With `pixels`
    their values are 0…255, otherwise those of the contract. `calibration` is a file of pixels uint8 [N, H, W, C].
    Biases of 16-bit activations have 64 bits if `wide`, otherwise 32.
    """

    source: Path
    row: Format
    contract: Contract
    calibration: Path | None
    batch: int | None
    pixels: bool
    wide: bool

    def images(self) -> NDArray[np.uint8]:
        """Return the calibration images as a memory map, or two images of noise if there are none."""
        if self.calibration is None:
            return np.random.default_rng(0).integers(0, 256, (2, *self.contract.shape), np.uint8)
        pixels: NDArray[np.uint8] = np.load(self.calibration, mmap_mode="r")
        return pixels

    def values(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the inputs of `source` for pixels [N, H, W, C]."""
        return pixels.astype(np.float32) if self.pixels else self.contract.scale(pixels)


def _folded(row: Format, scaling: Scaling) -> bool:
    """Return whether the scaling must become part of the graph, so that a uint8 input can take pixels.

    An input has one scale and one integer zero point. It can represent the contract's values only if all channels
    are scaled alike and the pixel with the value 0 is a whole number.
    """
    if row.edge != "uint8":
        return False
    if not scaling.uniform or scaling.scale[0] <= 0:
        return True
    zero_point = -scaling.offset[0] / scaling.scale[0]
    return abs(zero_point - round(zero_point)) > _EXACT or not 0 <= round(zero_point) <= 255


def _write(what: _Conversion, path: Path) -> tuple[str, int]:
    """Write the TFLite file `path` and run it once; return the missing integer kernels, or "".

    Also returns the number of calibration images used. Raises ConversionError for any other failure.
    """
    try:
        data, calibrated = _converted(what)
    except ConversionError as error:
        if _UNSUPPORTED in str(error):
            return str(error), 0
        raise
    if what.row.calibrated and (floats := _computed_in_float(data)):
        # The converter falls back to float32 without a message, even if only integer operators are allowed.
        return (
            f"{', '.join(floats)} would be computed in float32, since TFLite has no integer kernel for it; use the "
            "format selective, which may keep layers in float32",
            calibrated,
        )
    path.write_bytes(signature_metadata.add(data))
    try:
        _check_run(what, path)
    except ArtifactError as error:
        raise ConversionError(str(error).removeprefix(f"{path}: ")) from error
    return "", calibrated


def _converted(what: _Conversion) -> tuple[bytes, int]:
    """Return the contents of the TFLite file and the number of calibration images used."""
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
            # The converter's calibrator itself uses the deprecated interpreter.
            warnings.filterwarnings("ignore", message=r"\s*Warning: tf.lite.Interpreter is deprecated")
            data: bytes = converter.convert()
    except Exception as error:  # the converter raises its own and many built-in kinds
        raise ConversionError(_reason(error)) from error
    return data, calibrated


def _reason(error: Exception) -> str:
    """Return the relevant sentence of a converter's message, with advice where there is any."""
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
    """Return the names of a TFLite file's operators with float32 outputs, except type conversions."""
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


def _check_run(what: _Conversion, path: Path) -> None:
    """Run the file in LiteRT on one batch; ConversionError if the outputs' shape is wrong or they aren't finite."""
    runtime = LiteRT(path)
    images = what.images().take(range(what.batch or 2), axis=0, mode="wrap")
    if what.row.edge == "uint8":
        _check_input(what, runtime)
        outputs = Classifier(runtime, str(path)).predict(images)
    else:
        outputs = Classifier(runtime, str(path)).predict(what.values(images))
    expected = (len(images), len(what.contract.labels))
    if outputs.shape != expected or not np.isfinite(outputs).all():
        raise ConversionError(
            f"LiteRT returns {outputs.shape} with {int((~np.isfinite(outputs)).sum())} NaN or infinite values; "
            f"expected {expected}, all finite"
        )


def _check_input(what: _Conversion, runtime: LiteRT) -> None:
    """Raise ConversionError unless each integer of the input represents the value of the equal pixel."""
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
            f"its uint8 input maps pixels to wrong values ({quantization}); expected {wanted[0]:g} to "
            f"{wanted[-1]:g} in steps of {step:g}; calibrate with images of the full range, or leave the format out"
        )
