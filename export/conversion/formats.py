"""Export formats, as rows of one table.

Export, verification, benchmarks, the README and the tests all iterate over `FORMATS`; a new format is a
new row. The settings are those of TensorFlow's TFLiteConverter.
"""

from dataclasses import dataclass

from tfship.train.common.errors import UsageError

__all__ = ["FORMATS", "REFERENCE", "RELEASED", "SERVED_FILE", "WEB", "Format", "select"]

# Folder of the files for browsers in a version directory.
WEB = "web"


@dataclass(frozen=True)
class Format:
    """One TFLite format.

    `weights` and `activations` are the types used for computation. `edge` is the dtype of the input and output
    tensors. `calibrated` formats need images for the activations' ranges. `use` is the README's description.
    `selective` formats keep layers that lose accuracy in float32 (`export.conversion.selective_quantization`).
    """

    name: str
    weights: str
    activations: str
    edge: str
    calibrated: bool
    use: str
    selective: bool = False

    @property
    def file(self) -> str:
        """The file's path relative to the version directory."""
        return f"tflite/{self.name}.tflite"

    @property
    def web_file(self) -> str:
        """The path of the file for browsers, relative to the version directory (`export.conversion.web_file`)."""
        return f"{WEB}/{self.name}.tflite"

    @property
    def exact(self) -> bool:
        """Whether it computes the same as Keras, except for float32 rounding."""
        return self.weights == "float32"

    @property
    def integer(self) -> bool:
        """Whether all layers compute in int8, as TensorFlow Lite Micro's kernels require."""
        return self.activations == "int8" and not self.selective


FORMATS = {
    row.name: row
    for row in (
        Format(
            "float32", "float32", "float32", "float32", False, "the reference: what was trained, unchanged"
        ),
        Format(
            "dynamic", "int8", "float32", "float32", False, "a quarter of the size, no calibration needed"
        ),
        Format(
            "float16",
            "float16",
            "float32",
            "float32",
            False,
            "half the size, for GPUs and ARMv8.2 processors",
        ),
        Format(
            "int8", "int8", "int8", "float32", True, "integer arithmetic behind an unchanged float interface"
        ),
        Format(
            "int8_uint8",
            "int8",
            "int8",
            "uint8",
            True,
            "integer from edge to edge: raw pixels in, for devices",
        ),
        Format("int16x8", "int8", "int16", "float32", True, "finer activations, where int8 loses accuracy"),
        Format(
            "selective",
            "int8",
            "int8",
            "float32",
            True,
            "int8, but for the layers that lose accuracy by it, which stay float32",
            selective=True,
        ),
    )
}

# The format that all others are compared with.
REFERENCE = "float32"
# The file that TensorFlow Serving serves with --prefer_tflite_model: a copy of one of the formats.
SERVED_FILE = "model.tflite"
# The format of the files in models/released: the smallest that runs on every device without other files.
RELEASED = "int8"


def select(names: str | None) -> list[Format]:
    """Return the rows of the comma-separated `names`, or all rows without names; UsageError for an unknown name."""
    if not names:
        return list(FORMATS.values())
    requested = [name.strip() for name in names.split(",") if name.strip()]
    if unknown := [name for name in requested if name not in FORMATS]:
        raise UsageError(f"unknown format: {', '.join(unknown)}; expected {', '.join(FORMATS)}")
    return [row for row in FORMATS.values() if row.name in requested]
