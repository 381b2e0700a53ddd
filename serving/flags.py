"""The command line: `tensorflow_model_server`'s flags by their names, and a few of our own."""

import argparse
import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

from serving.loading import Loader
from serving.models import LoadPolicy
from serving.server import ANY_PORT, Settings
from train import cli
from train.errors import UsageError

__all__ = ["UNSUPPORTED", "parser", "refuse_unsupported", "settings"]

# Flags of tensorflow_model_server that this server knows and can't obey yet, with the value that asks for
# nothing: what TensorFlow Serving does without the flag.
UNSUPPORTED = {
    "batching_parameters_file": "",
    "enable_batching": "false",
    "enable_per_model_batching_parameters": "false",
    "enable_profiler": "false",
    "enable_signature_method_name_check": "false",
    "flush_filesystem_caches": "true",
    "grpc_channel_arguments": "",
    "grpc_socket_path": "",
    "mixed_precision": "",
    "monitoring_config_file": "",
    "num_load_threads": "0",
    "num_request_iterations_for_warmup": "0",
    "num_tflite_interpreters_per_pool": "1",
    "num_tflite_pools": "1",
    "num_unload_threads": "0",
    "per_process_gpu_memory_fraction": "0",
    "platform_config_file": "",
    "remove_unused_fields_from_bundle_metagraph": "true",
    "rest_api_timeout_in_ms": "30000",
    "saved_model_tags": "serve",
    "skip_initialize_tpu": "false",
    "ssl_config_file": "",
    "tensorflow_inter_op_parallelism": "0",
    "tensorflow_intra_op_parallelism": "0",
    "tensorflow_session_config_file": "",
    "thread_pool_factory_config_file": "",
    "use_alts_credentials": "false",
    "xla_cpu_compilation_enabled": "false",
    "xla_gpu_compilation_enabled": "false",
}
_HINTS = {
    "tensorflow_intra_op_parallelism": "--tensorflow_session_parallelism sets both pools",
    "tensorflow_inter_op_parallelism": "--tensorflow_session_parallelism sets both pools",
}


def parser() -> argparse.ArgumentParser:
    """Return the parser of all flags, supported and refused."""
    flags = cli.parser(
        "python -m serving",
        "Serve exported models by TensorFlow Serving's REST and gRPC APIs; flags as tensorflow_model_server's.",
    )
    # The full usage is forty flags long and would bury the error that it is printed with.
    flags.usage = "python -m serving --model_base_path=DIR [--rest_api_port=8501] [--flag=value …]"
    version = importlib.metadata.version("tensorflow-serving-api")
    flags.add_argument(
        "--version", action="version", version=f"tfship model server, TensorFlow Serving API {version}",
        help="show the version and exit",
    )  # fmt: skip
    _add_models(flags)
    _add_network(flags)
    _add_runtime(flags)
    _add_process(flags)
    _add_unsupported(flags)
    return flags


def refuse_unsupported(flags: argparse.Namespace) -> None:
    """Raise UsageError for the first flag that asks for what this server doesn't do yet."""
    for name, neutral in UNSUPPORTED.items():
        value = getattr(flags, name)
        if value is not None and value.lower() != neutral:
            hint = _HINTS.get(name, f"leave it out or at {neutral!r}" if neutral else "leave it out")
            raise UsageError(f"--{name}: not supported by this server yet; {hint}")


def settings(flags: argparse.Namespace) -> Settings:
    """Return the server settings that the flags ask for. Raises UsageError."""
    if flags.port == 0:
        raise UsageError(
            f"--port=0: gRPC can't be switched off; expected a port, or {ANY_PORT} for any free one"
        )
    defaults = Settings()
    return Settings(
        host=flags.host,
        grpc_port=flags.port,
        rest_port=flags.rest_api_port,
        grpc_threads=flags.grpc_max_threads or defaults.grpc_threads,
        rest_threads=flags.rest_api_num_threads or defaults.rest_threads,
        packed_answers=flags.enable_serialization_as_tensor_content,
        cors=flags.rest_api_enable_cors_support,
        health=flags.enable_grpc_healthcheck_service,
        config_file=flags.model_config_file,
        config_poll_seconds=flags.model_config_file_poll_wait_seconds,
        loader=Loader(
            flags.prefer_tflite_model, flags.tensorflow_session_parallelism, flags.enable_model_warmup
        ),
        loading=LoadPolicy(
            poll_seconds=flags.file_system_poll_wait_seconds,
            retries=flags.max_num_load_retries,
            retry_seconds=flags.load_retry_interval_micros / 1e6,
            labels_for_unavailable=flags.allow_version_labels_for_unavailable_models,
        ),
    )


def _add_models(flags: argparse.ArgumentParser) -> None:
    group = flags.add_argument_group("models")
    group.add_argument("--model_name", default="default", help="the name of the one model")
    group.add_argument(
        "--model_base_path", default="", metavar="DIR", help="its directory, which holds versions"
    )
    group.add_argument(
        "--model_config_file",
        type=Path,
        metavar="FILE",
        help="several models: a ModelServerConfig in text format",
    )
    group.add_argument(
        "--model_config_file_poll_wait_seconds", type=_at_least(0), default=0, metavar="S",
        help="how often to look whether that file has changed; 0: never",
    )  # fmt: skip
    group.add_argument(
        "--file_system_poll_wait_seconds", type=_at_least(0), default=1, metavar="S",
        help="how often to look for new versions; 0: only at the start",
    )  # fmt: skip
    group.add_argument(
        "--max_num_load_retries", type=_at_least(0), default=5, metavar="N",
        help="how often to try again to load a version that appeared and is broken",
    )  # fmt: skip
    group.add_argument(
        "--load_retry_interval_micros", type=_integer, default=60_000_000, metavar="US",
        help="how long to wait in between; negative: not at all",
    )  # fmt: skip
    _add_bool(
        group,
        "allow_version_labels_for_unavailable_models",
        "let labels name versions that aren't available",
    )


def _add_network(flags: argparse.ArgumentParser) -> None:
    group = flags.add_argument_group("network")
    group.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 is all of them")
    group.add_argument(
        "--port", type=_port, default=8500, metavar="PORT", help=f"gRPC port; {ANY_PORT}: any free one"
    )
    group.add_argument(
        "--rest_api_port", type=_port, default=0, metavar="PORT",
        help=f"REST port; {ANY_PORT}: any free one, 0: no REST",
    )  # fmt: skip
    group.add_argument(
        "--grpc_max_threads",
        type=_at_least(0),
        default=0,
        metavar="N",
        help="gRPC requests at a time; 0: 4 per core",
    )
    group.add_argument(
        "--rest_api_num_threads", type=_at_least(0), default=0, metavar="N",
        help="REST requests at a time; 0: 4 per core",
    )  # fmt: skip
    _add_bool(group, "rest_api_enable_cors_support", "let browsers call REST from pages of other servers")
    _add_bool(group, "enable_grpc_healthcheck_service", "answer grpc.health.v1.Health on the gRPC port")
    _add_bool(
        group,
        "enable_serialization_as_tensor_content",
        "answer gRPC with tensor_content, not typed fields",
    )


def _add_runtime(flags: argparse.ArgumentParser) -> None:
    group = flags.add_argument_group("runtime")
    _add_bool(
        group,
        "enable_model_warmup",
        "run the requests in assets.extra/tf_serving_warmup_requests before a version is available",
        default=True,
    )
    _add_bool(
        group, "prefer_tflite_model", "serve model.tflite where a version has one; TensorFlow stays unloaded"
    )
    group.add_argument(
        "--tensorflow_session_parallelism", type=_at_least(0), default=0, metavar="N",
        help="threads of an inference; 0: TensorFlow one per core, TFLite one",
    )  # fmt: skip


def _add_process(flags: argparse.ArgumentParser) -> None:
    group = flags.add_argument_group("process (not in tensorflow_model_server)")
    group.add_argument(
        "--ready_file", type=Path, metavar="PATH",
        help="write {host, grpc_port, rest_port, pid} there as JSON when all models are available",
    )  # fmt: skip
    group.add_argument(
        "--shutdown_grace_seconds", type=_at_least(0), default=30, metavar="S",
        help="what requests in flight get after SIGTERM",
    )  # fmt: skip


def _add_unsupported(flags: argparse.ArgumentParser) -> None:
    group = flags.add_argument_group("known and refused, unless they ask for nothing")
    for name, neutral in UNSUPPORTED.items():
        description = f"only {neutral!r}" if neutral else "not supported yet"
        if neutral in ("true", "false"):
            group.add_argument(f"--{name}", nargs="?", const="true", metavar="true|false", help=description)
        else:
            group.add_argument(f"--{name}", metavar="VALUE", help=description)


def _add_bool(group: Any, name: str, description: str, *, default: bool = False) -> None:
    group.add_argument(
        f"--{name}",
        nargs="?",
        type=_bool,
        const=True,
        default=default,
        metavar="true|false",
        help=description,
    )


def _bool(text: str) -> bool:
    try:
        return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
    except KeyError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected true or false") from None


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number") from None


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = _integer(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{text}: expected {least} or more")
        return value

    return number


def _port(text: str) -> int:
    value = _integer(text)
    if not ANY_PORT <= value <= 65535:
        raise argparse.ArgumentTypeError(f"{text}: expected 0 to 65535, or {ANY_PORT} for any free port")
    return value
