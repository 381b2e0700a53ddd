"""TensorFlow's settings: the ConfigProto made from flags and the `--tensorflow_session_config_file`."""

from pathlib import Path
from typing import Any

from google.protobuf import text_format

from tfship.serving.protos import config_messages
from tfship.serving.protos.messages import POOL, config_pb2
from tfship.serving.server.settings import cores_each
from tfship.train.common.errors import UsageError

__all__ = ["session_config"]


def session_config(
    file: Path | None,
    *,
    both: int = 0,
    intra: int = 0,
    inter: int = 0,
    gpu_fraction: float = 0.0,
    workers: int = 0,
) -> bytes:
    """Return a serialized ConfigProto with the settings in the text `file`, overridden by flags. Raises UsageError.

    `intra` and `inter` are the threads of TensorFlow's two pools. `both` sets both pools; by TensorFlow Serving's
    rules, it is ignored if one of the others is set. 0 means the file's value, or else one thread per core, divided
    among the `workers`. `gpu_fraction` is the share of a GPU's memory; 0 means as needed.
    """
    if both and intra and inter:
        raise UsageError(
            "--tensorflow_session_parallelism, --tensorflow_intra_op_parallelism and --tensorflow_inter_op_parallelism "
            "are all set; expected only the first, or only the other two"
        )
    if not intra and not inter:
        intra = inter = both
    config = _read(file) if file else config_pb2.ConfigProto()
    # With two threads instead of one in each of two workers, a batch of 64 images of the MNIST CNN takes 16 instead of
    # 24 ms if there are no other requests. But one image takes 689 instead of 451 µs of processor time.
    share = cores_each(workers) if workers else 0
    config.intra_op_parallelism_threads = intra or config.intra_op_parallelism_threads or share
    config.inter_op_parallelism_threads = inter or config.inter_op_parallelism_threads or share
    if gpu_fraction:
        config.gpu_options.per_process_gpu_memory_fraction = gpu_fraction
    serialized: bytes = config.SerializeToString()
    return serialized


def _read(file: Path) -> Any:
    flag = "--tensorflow_session_config_file"
    try:
        text = config_messages.read_text(file, flag)
        return text_format.Parse(text, config_pb2.ConfigProto(), descriptor_pool=POOL)
    except text_format.ParseError as error:
        raise UsageError(
            f"{flag}: {file}: not a TensorFlow ConfigProto in protobuf text format ({error})"
        ) from None
