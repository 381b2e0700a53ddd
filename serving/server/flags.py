"""Table of command-line flags: those of `tensorflow_model_server`, by the same names, and additional ones."""

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfship.export.storage.filesystems import CACHE_FOLDER
from tfship.serving.protos import messages
from tfship.serving.server.logs import FORMATS
from tfship.serving.server.settings import ANY_PORT, GRPC_ARGUMENTS, REUSE_PORT, Limits, cores
from tfship.train.common import cli

__all__ = ["FLAGS", "IGNORED", "RUNTIMES", "Flag", "ignored", "parse", "parser"]

# Values of --runtime.
RUNTIMES = ("auto", "savedmodel", "tflite")
# Flags without effect here: the neutral value, and the reason why other values are ignored.
IGNORED: dict[str, tuple[bool | int | str, str]] = {
    "enable_profiler": (False, "there is no profiler service"),
    "flush_filesystem_caches": (True, "only the operating system caches model files"),
    "mixed_precision": ("", "models run in the precision of the export"),
    "platform_config_file": ("", "the only platform is configured by flags"),
    "remove_unused_fields_from_bundle_metagraph": (True, "unused fields are never kept"),
    "skip_initialize_tpu": (False, "TPUs are not supported"),
    "thread_pool_factory_config_file": ("", "use --tensorflow_session_config_file to set thread pools"),
    "xla_cpu_compilation_enabled": (False, "XLA compiles only the models that request it"),
    "xla_gpu_compilation_enabled": (False, "XLA compiles only the models that request it"),
}


@dataclass(frozen=True)
class Flag:
    """A flag: its parsing and its line in `--help`.

    `type` converts the text and raises ArgumentTypeError; `metavar` represents the value in `--help`. A flag without
    `type` is boolean, and is true if it has no value.
    """

    name: str
    default: bool | int | float | str | Path | None
    help: str
    metavar: str = "true|false"
    type: Callable[[str], object] | None = None


def _bool(text: str) -> bool:
    try:
        return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
    except KeyError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected true or false") from None


def _log_format(text: str) -> str:
    if text not in FORMATS:
        raise argparse.ArgumentTypeError(f"{text!r}: expected {' or '.join(FORMATS)}")
    return text


def _runtime(text: str) -> str:
    if text not in RUNTIMES:
        raise argparse.ArgumentTypeError(f"{text!r}: expected {', '.join(RUNTIMES[:-1])} or {RUNTIMES[-1]}")
    return text


def _file(text: str) -> Path | None:
    # An empty name means no file, as in TensorFlow Serving.
    return Path(text) if text else None


def _tags(text: str) -> tuple[str, ...]:
    tags = tuple(text.split(","))
    if not all(tags):
        raise argparse.ArgumentTypeError(f"{text!r}: expected TAG,TAG,…")
    return tags


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r}: expected 0.0 to 1.0")
    return value


def _arguments(text: str) -> tuple[tuple[str, int | str], ...]:
    found: dict[str, int | str] = {}
    for each in text.split(",") if text else ():
        name, equals, value = each.partition("=")
        if not name or not equals:
            raise argparse.ArgumentTypeError(f"{each!r}: expected NAME=VALUE,NAME=VALUE,…")
        if name == REUSE_PORT:
            raise argparse.ArgumentTypeError(f"{each!r}: is reserved for --workers; leave it out")
        # Values other than int32 are strings, as in TensorFlow Serving.
        number = re.fullmatch("-?[0-9]{1,10}", value) and -(2**31) <= int(value) < 2**31
        found[name] = int(value) if number else value
    return tuple(found.items())


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


# Flags by the title of their group in `--help`.
FLAGS: Mapping[str, tuple[Flag, ...]] = {
    "models": (
        Flag("model_name", "default", "name of the one model", "MODEL_NAME", str),
        Flag("model_base_path", "", "directory of the one model, which holds its versions, or its s3://, gs:// or "
             "az:// URL", "DIR", str),
        Flag("model_config_file", None, "several models: a ModelServerConfig in text format", "FILE", Path),
        Flag("model_config_file_poll_wait_seconds", 0, "seconds between checks of that file for changes; 0: never",
             "S", _at_least(0)),
        Flag("file_system_poll_wait_seconds", 1, "seconds between checks for new versions, also in object storage; 0: "
             "only at the start",
             "S", _at_least(0)),
        Flag("model_cache_dir", CACHE_FOLDER, "directory for copies of versions in object storage (not in "
             "tensorflow_model_server)", "DIR", Path),
        Flag("max_num_load_retries", 5, "retries for a version that can't be loaded", "N", _at_least(0)),
        Flag("load_retry_interval_micros", 60_000_000, "microseconds between retries; negative: none", "US", _integer),
        Flag("num_load_threads", 0, "models whose new versions are loaded in parallel; 0: one at a time",
             "N", _at_least(0)),
        Flag("num_unload_threads", 0, "versions that can wait for their last requests in the background; 0: none",
             "N", _at_least(0)),
        Flag("allow_version_labels_for_unavailable_models", False, "let labels name versions that aren't available"),
    ),
    "network": (
        Flag("host", "127.0.0.1", "address to listen on; 0.0.0.0: all", "HOST", str),
        Flag("port", 8500, f"gRPC port; {ANY_PORT}: any free one, 0: only --grpc_socket_path", "PORT", _port),
        Flag("grpc_socket_path", None, "Unix socket for gRPC, in addition to the port; served by one worker; the umask "
             "sets access", "PATH", _file),
        Flag("rest_api_port", 0, f"REST port; {ANY_PORT}: any free one, 0: no REST", "PORT", _port),
        Flag("web", False, "serve the web page at /web/ on the REST port, and report timings (not in "
             "tensorflow_model_server)"),
        Flag("grpc_max_threads", 0, "concurrent gRPC requests; 0: 4 per core, shared by the workers; 128 with batching",
             "N", _at_least(0)),
        Flag("rest_api_num_threads", 0, "concurrent REST requests; 0: 4 per core, shared by the workers; 128 with "
             "batching", "N", _at_least(0)),
        Flag("monitoring_config_file", None, "MonitoringConfig in text format: path of the Prometheus metrics on the "
             "REST port", "FILE", Path),
        Flag("rest_api_timeout_in_ms", 30_000, "deadline by which a REST request's inference must begin; 0: none",
             "MS", _integer),
        Flag("grpc_channel_arguments", "", "gRPC core's arguments, such as grpc.max_connection_age_ms=2000; those "
             f"with an effect: {', '.join(each.removeprefix('grpc.') for each in GRPC_ARGUMENTS)}",
             "NAME=VALUE,…", _arguments),
        Flag("http2_engine", "auto", "HTTP/2 by ngh2 or by h2, which is slower; auto: ngh2 if it is installed (not in "
             "tensorflow_model_server)", "ENGINE", str),
        Flag("ssl_config_file", None, "TLS for gRPC and REST: an SSLConfig in text format, with the PEM texts; "
             "read again when it changes",
             "FILE", _file),
        Flag("use_alts_credentials", False, "not supported"),
        Flag("rest_api_enable_cors_support", False, "let web pages of other origins call REST"),
        Flag("enable_grpc_healthcheck_service", False, "serve grpc.health.v1.Health on the gRPC port"),
        Flag("enable_grpc_reflection", True, "describe the gRPC services to clients such as grpcurl (not in "
             "tensorflow_model_server)"),
        Flag("enable_serialization_as_tensor_content", False, "send gRPC tensors as tensor_content, not typed fields"),
    ),
    "runtime": (
        Flag("enable_model_warmup", True, "run assets.extra/tf_serving_warmup_requests before a version is available"),
        Flag("enable_signature_method_name_check", False, "classify and regress only with signatures that were "
             "exported for it"),
        Flag("prefer_tflite_model", False, "the same as --runtime=tflite"),
        Flag("runtime", None, "tflite: a version's TFLite file if it has one, and TensorFlow isn't loaded; savedmodel: "
             "TensorFlow; auto, the default: TensorFlow, except for serving_default of versions whose export.json "
             "shows that TFLite's scores are equal (not in tensorflow_model_server)", "|".join(RUNTIMES), _runtime),
        Flag("num_request_iterations_for_warmup", 0, "runs of each warm-up request; 0: one", "N", _at_least(0)),
        Flag("saved_model_tags", "serve", "tags of the SavedModel's graph to serve", "TAG,…", _tags),
        Flag("tensorflow_session_parallelism", 0, "threads of an inference, in each worker; 0: for TFLite one, for a "
             "large batch also idle cores; for TensorFlow the worker's share of the cores", "N", _at_least(0)),
        Flag("tensorflow_intra_op_parallelism", 0, "threads of one operator, and of TFLite", "N", _at_least(0)),
        Flag("tensorflow_inter_op_parallelism", 0, "operators that TensorFlow runs in parallel", "N", _at_least(0)),
        Flag("tensorflow_session_config_file", None, "TensorFlow's other settings: a ConfigProto in text format; flags "
             "override it", "FILE", _file),
        Flag("per_process_gpu_memory_fraction", 0.0, "share of a GPU's memory for each worker; 0: as needed",
             "0.0…1.0", _fraction),
        Flag("enable_batching", False, "run concurrent requests together"),
        Flag("batching_parameters_file", "", "BatchingParameters in text format", "FILE", str),
        Flag("enable_per_model_batching_parameters", False, "configure batching by batching_params.pbtxt of each "
             "version; versions without it aren't batched"),
        Flag("num_tflite_interpreters_per_pool", 4, "concurrent inferences of one TFLite model in each worker; memory "
             "is allocated for each when it is first needed", "N", _at_least(1)),
        Flag("num_tflite_pools", 1, "factor for --num_tflite_interpreters_per_pool", "N", _at_least(1)),
    ),
    "process (not in tensorflow_model_server)": (
        Flag("ready_file", None, "JSON file with {host, grpc_port, rest_port, pid}, written when all models are "
             "available", "PATH", Path),
        Flag("verify_versions", False, "before loading a version, check its files against the hashes in its "
             "export.json"),
        Flag("workers", cores(), "worker processes, which share the ports and each load all models; 0: serve from this "
             "process", "N", _at_least(0)),
        Flag("worker_timeout_seconds", 30, "a worker without a heartbeat for this long is killed and replaced",
             "S", _at_least(2)),
        Flag("log_format", "text", "text, or json for one object per line", "|".join(FORMATS), _log_format),
        Flag("log_requests", False, "log each request as JSON"),
        Flag("enable_server_timing", False, "report timings in each response: a Server-Timing header, or server-timing "
             "in trailing metadata"),
        Flag("shutdown_grace_seconds", 30, "grace period for in-flight requests after SIGTERM", "S", _at_least(0)),
    ),
    "limits (not in tensorflow_model_server)": (
        Flag("max_body_bytes", Limits.body_bytes, "size of a REST body, also decompressed, and of a gRPC message",
             "N", _at_least(1)),
        Flag("max_header_bytes", Limits.header_bytes, "size of a REST request's headers, and of gRPC metadata",
             "N", _at_least(1)),
        Flag("max_json_depth", Limits.json_depth, "maximum JSON nesting depth", "N", _at_least(1)),
        Flag("max_tensor_elements", Limits.tensor_elements, "elements of each input", "N", _at_least(1)),
        Flag("max_connections", Limits.connections, "connections to each port of a worker", "N", _at_least(1)),
        Flag("max_requests", Limits.requests, "requests in flight or queued, for each port of a worker",
             "N", _at_least(1)),
        Flag("max_streams", Limits.streams, "concurrent calls on a gRPC connection", "N", _at_least(1)),
        Flag("receive_timeout_seconds", round(Limits.request_seconds), "seconds for a request to arrive; large REST "
             "requests have more", "S", _at_least(1)),
        Flag("min_bytes_per_second", Limits.slowest_bytes_per_second, "lowest rate of large REST requests, and of "
             "responses", "N", _at_least(1)),
        Flag("idle_timeout_seconds", round(Limits.idle_seconds), "seconds until an idle connection is closed",
             "S", _at_least(1)),
    ),
    "accepted and ignored, with a log message": tuple(
        Flag(name, neutral, reason)
        if isinstance(neutral, bool)
        else Flag(name, neutral, reason, "N", _integer)
        if isinstance(neutral, int)
        else Flag(name, neutral, reason, "VALUE", str)
        for name, (neutral, reason) in IGNORED.items()
    ),
}  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """Return the parser of all flags, including ignored ones."""
    flags = cli.parser(
        "tfship serve",
        "Serve exported models by TensorFlow Serving's REST and gRPC APIs, with tensorflow_model_server's flags. "
        "Without --model_base_path and --model_config_file: all models in the folder models, with REST on port 8501.",
    )
    # The full usage lists forty flags and would hide the error that follows it.
    flags.usage = "tfship serve [--model_base_path=DIR] [--rest_api_port=8501] [--flag=value …]"
    flags.add_argument(
        "--version", action="version", version=f"tfship model server, TensorFlow Serving API {messages.VERSION}",
        help="show the version and exit",
    )  # fmt: skip
    for title, rows in FLAGS.items():
        group = flags.add_argument_group(title)
        for row in rows:
            # A boolean flag without a value is true.
            bare: dict[str, Any] = {} if row.type else {"nargs": "?", "const": True}
            group.add_argument(
                f"--{row.name}", type=row.type or _bool, default=row.default, metavar=row.metavar, help=row.help,
                **bare,
            )  # fmt: skip
    return flags


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line `argv`; `-port=1` means `--port=1`. Exits the process with code 2 for invalid flags."""
    given = sys.argv[1:] if argv is None else argv
    return parser().parse_args([re.sub("^-(?=[a-z_]{2})", "--", each) for each in given])


def ignored(flags: argparse.Namespace) -> list[str]:
    """Return one line for each ignored flag that isn't neutral."""
    lines = [
        f"--{name}: accepted and ignored: {reason}"
        for name, (neutral, reason) in IGNORED.items()
        if getattr(flags, name) != neutral
    ]
    unused = [name for name, _ in flags.grpc_channel_arguments if name not in GRPC_ARGUMENTS]
    return lines + [f"--grpc_channel_arguments: {name}: accepted and ignored" for name in unused]
