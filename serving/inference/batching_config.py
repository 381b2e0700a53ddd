"""Batching parameters: `--batching_parameters_file` and a version's `batching_params.pbtxt`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfship.serving.protos import config_messages
from tfship.serving.server.cpu_cores import cores
from tfship.train.common.errors import UsageError

__all__ = ["BatchingParameters", "read"]


@dataclass(frozen=True)
class BatchingParameters:
    """TensorFlow Serving's BatchingParameters, with its defaults. Sizes are rows, the tensors' first dimension.

    Batches are padded to the next of `allowed_batch_sizes`, if set. With `enable_large_batch_splitting`, a batch has
    at most `max_execution_batch_size` rows (0: `max_batch_size`). Without, that field has no effect, as in TensorFlow
    Serving.
    """

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = cores()
    thread_pool_name: str = "batch_threads"
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False
    enable_large_batch_splitting: bool = False
    max_execution_batch_size: int = 0

    @property
    def rows_per_batch(self) -> int:
        """Maximum number of rows of a batch."""
        split = self.enable_large_batch_splitting and self.max_execution_batch_size
        return split or self.max_batch_size

    def padding(self, rows: int) -> int:
        """Return the number of rows that pad a batch of `rows` to the next allowed size."""
        return next((size for size in self.allowed_batch_sizes if size >= rows), rows) - rows


def read(path: Path, flag: str) -> BatchingParameters:
    """Return the parameters in the text file `path`, the value of the flag `flag`.

    Raises UsageError, which names the flag, the file and the expected value.
    """
    message = config_messages.read(path, config_messages.BatchingParameters, flag)
    values: dict[str, Any] = {
        "allowed_batch_sizes": tuple(message.allowed_batch_sizes),
        "pad_variable_length_inputs": message.pad_variable_length_inputs,
    }
    for field in message.DESCRIPTOR.fields:
        if field.message_type and message.HasField(field.name):
            values[field.name] = getattr(message, field.name).value
    try:
        return _checked(BatchingParameters(**values))
    except ValueError as error:
        raise UsageError(f"{flag}: {path}: {error}") from None


def _checked(parameters: BatchingParameters) -> BatchingParameters:
    for name, minimum in (
        ("max_batch_size", 1),
        ("batch_timeout_micros", 0),
        ("max_enqueued_batches", 1),
        ("num_batch_threads", 1),
        ("max_execution_batch_size", 0),
    ):
        if (value := getattr(parameters, name)) < minimum:
            raise ValueError(f"{name} is {value}; expected {minimum} or more")
    if parameters.rows_per_batch > parameters.max_batch_size:
        raise ValueError(
            f"max_execution_batch_size is {parameters.max_execution_batch_size}; "
            f"expected at most max_batch_size, {parameters.max_batch_size}"
        )
    sizes = parameters.allowed_batch_sizes
    if sizes:
        if sizes[0] < 1 or list(sizes) != sorted(set(sizes)):
            raise ValueError(
                f"allowed_batch_sizes are {list(sizes)}; expected positive sizes, each above the last"
            )
        if sizes[-1] != parameters.max_batch_size:
            raise ValueError(
                "Last entry in allowed_batch_sizes must match max_batch_size; last entry was "
                f"{sizes[-1]}; expected {parameters.max_batch_size}"
            )
    return parameters
