"""The formats a model is exported in, as rows of one table.

Export, verification, benchmarks, the README and the tests all iterate over `FORMATS`; a new format is a
new row. The settings are those of TensorFlow's TFLiteConverter.
"""

from dataclasses import dataclass

from tfship.train.common.errors import UsageError

__all__ = ["FORMATS", "REFERENCE", "RELEASED", "SERVED_FILE", "Format", "select"]


@dataclass(frozen=True)
class Format:
    """One TFLite format.

    `weights` and `activations` are the types that the file computes with, `edge` the dtype of its input
    and output tensors, `calibrated` whether images are needed to find the activations' ranges; `selective`
    formats keep in float32 the layers that lose accuracy (`export.conversion.selective_quantization`).
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
        """Where the file lies within a version directory."""
        return f"tflite/{self.name}.tflite"

    @property
    def exact(self) -> bool:
        """Whether it computes what Keras does, to the last bits of float32."""
        return self.weights == "float32"

    @property
    def integer(self) -> bool:
        """Whether all layers compute in int8, as TensorFlow Lite Micro's kernels do."""
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

# What every other format is compared with.
REFERENCE = "float32"
# What TensorFlow Serving serves with --prefer_tflite_model: a copy of one of the files.
SERVED_FILE = "model.tflite"
# What comes with the repository: the smallest file that runs by itself on every device.
RELEASED = "int8"


def select(names: str | None) -> list[Format]:
    """Return the rows for a comma-separated list of names, or all of them; UsageError names an unknown one."""
    if not names:
        return list(FORMATS.values())
    asked = [name.strip() for name in names.split(",") if name.strip()]
    if unknown := [name for name in asked if name not in FORMATS]:
        raise UsageError(f"no format is called {', '.join(unknown)}; there are {', '.join(FORMATS)}")
    return [row for row in FORMATS.values() if row.name in asked]
