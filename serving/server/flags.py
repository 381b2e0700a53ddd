"""The command line: `tensorflow_model_server`'s flags by their names, and a few of our own."""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tfship.serving.inference import batching_config
from tfship.serving.inference.batching_config import BatchingParameters
from tfship.serving.metrics.metrics import DEFAULT_PATH
from tfship.serving.models.loader import Loader
from tfship.serving.models.manager import LoadPolicy
from tfship.serving.models.session_config import session_config
from tfship.serving.protos import config_messages, messages
from tfship.serving.server import tls
from tfship.serving.server.settings import ANY_PORT, REUSE_PORT, Limits, Settings, cores, cores_each
from tfship.train.common import cli
from tfship.train.common.errors import UsageError

__all__ = ["IGNORED", "ignored", "parse", "parser", "settings"]

# Flags that make no difference here: the value that asks for nothing, and why any other is left out of account.
IGNORED: dict[str, tuple[bool | int | str, str]] = {
    "enable_profiler": (False, "there is no profiler service"),
    "flush_filesystem_caches": (True, "model files are cached by the system, as all files are"),
    "mixed_precision": ("", "a model is run in the precision that it was exported in"),
    "platform_config_file": ("", "there is one platform, and flags are its settings"),
    "remove_unused_fields_from_bundle_metagraph": (True, "what isn't used isn't kept in any case"),
    "skip_initialize_tpu": (False, "there is no support for TPUs"),
    "thread_pool_factory_config_file": ("", "--tensorflow_session_config_file sets thread pools"),
    "xla_cpu_compilation_enabled": (False, "models are compiled by XLA where they ask for it themselves"),
    "xla_gpu_compilation_enabled": (False, "models are compiled by XLA where they ask for it themselves"),
}


def parser() -> argparse.ArgumentParser:
    """Return the parser of all flags, supported and refused."""
    flags = cli.parser(
        "tfship serve",
        "Serve exported models by TensorFlow Serving's REST and gRPC APIs; flags as tensorflow_model_server's. Without "
        "--model_base_path and --model_config_file: all that are in the folder models, over REST on 8501, too.",
    )
    # The full usage is forty flags long and would bury the error that it is printed with.
    flags.usage = "tfship serve [--model_base_path=DIR] [--rest_api_port=8501] [--flag=value …]"
    flags.add_argument(
        "--version", action="version", version=f"tfship model server, TensorFlow Serving API {messages.VERSION}",
        help="show the version and exit",
    )  # fmt: skip
    _add_models(flags)
    _add_network(flags)
    _add_runtime(flags)
    _add_process(flags)
    _add_limits(flags)
    _add_ignored(flags)
    return flags


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line; whoever writes `-port=1` means `--port=1`. Ends the process for what can't be parsed."""
    given = sys.argv[1:] if argv is None else argv
    return parser().parse_args([re.sub("^-(?=[a-z_]{2})", "--", each) for each in given])


def ignored(flags: argparse.Namespace) -> list[str]:
    """Return a line for each flag that asks for something and is accepted and ignored."""
    return [
        f"--{name}: accepted and ignored: {reason}"
        for name, (neutral, reason) in IGNORED.items()
        if getattr(flags, name) != neutral
    ]


def settings(flags: argparse.Namespace) -> Settings:
    """Return the server settings that the flags ask for. Raises UsageError."""
    if flags.port == 0 and not flags.grpc_socket_path:
        raise UsageError(
            f"--port=0 without --grpc_socket_path: expected one of them, or --port={ANY_PORT} for any free port"
        )
    if flags.use_alts_credentials:
        # To ignore this one would be to serve anyone where only some were meant.
        raise UsageError(
            "--use_alts_credentials: not supported; leave it out, and secure the ports by --ssl_config_file"
        )
    # A request that waits for its batch to be full holds a thread.
    threads = 128 if flags.enable_batching else max(2, 4 * cores() // max(1, flags.workers))
    return Settings(
        host=flags.host,
        grpc_port=flags.port,
        grpc_socket=flags.grpc_socket_path,
        rest_port=flags.rest_api_port,
        tls=tls.read(flags.ssl_config_file) if flags.ssl_config_file else None,
        workers=_workers(flags),
        worker_timeout_seconds=flags.worker_timeout_seconds,
        metrics_path=_metrics_path(flags),
        logs_requests=flags.log_requests,
        tells_timing=flags.enable_server_timing,
        grpc_threads=flags.grpc_max_threads or threads,
        grpc_arguments=flags.grpc_channel_arguments,
        rest_threads=flags.rest_api_num_threads or threads,
        rest_timeout_seconds=flags.rest_api_timeout_in_ms / 1e3 if flags.rest_api_timeout_in_ms > 0 else None,
        packed_answers=flags.enable_serialization_as_tensor_content,
        cors=flags.rest_api_enable_cors_support,
        health=flags.enable_grpc_healthcheck_service,
        reflection=flags.enable_grpc_reflection,
        checks_methods=flags.enable_signature_method_name_check,
        config_file=flags.model_config_file,
        config_poll_seconds=flags.model_config_file_poll_wait_seconds,
        loader=_loader(flags),
        loading=LoadPolicy(
            poll_seconds=flags.file_system_poll_wait_seconds,
            retries=flags.max_num_load_retries,
            retry_seconds=flags.load_retry_interval_micros / 1e6,
            labels_for_unavailable=flags.allow_version_labels_for_unavailable_models,
            # As TensorFlow Serving: at the start nothing else is to be done.
            first_load_threads=4 * cores(),
            load_threads=flags.num_load_threads,
            unload_threads=flags.num_unload_threads,
        ),
        limits=Limits(
            body_bytes=flags.max_body_bytes,
            header_bytes=flags.max_header_bytes,
            json_depth=flags.max_json_depth,
            tensor_elements=flags.max_tensor_elements,
            connections=flags.max_connections,
            requests=flags.max_requests,
            request_seconds=flags.receive_timeout_seconds,
            slowest_bytes_per_second=flags.min_bytes_per_second,
            idle_seconds=flags.idle_timeout_seconds,
        ),
    )


def _workers(flags: argparse.Namespace) -> int:
    # One worker serves a Unix socket: without a port, any more would have nothing to do.
    workers: int = flags.workers
    return workers if flags.port or flags.rest_api_port else min(1, workers)


def _loader(flags: argparse.Namespace) -> Loader:
    both, intra = flags.tensorflow_session_parallelism, flags.tensorflow_intra_op_parallelism
    interpreters = flags.num_tflite_pools * flags.num_tflite_interpreters_per_pool
    share = cores_each(flags.workers)
    return Loader(
        prefer_tflite=flags.prefer_tflite_model,
        threads=intra or both or 1,
        interpreters=interpreters,
        large_batches=(share, share if intra or both else min(cores(), interpreters)),
        warmup=flags.enable_model_warmup,
        warmup_iterations=flags.num_request_iterations_for_warmup or 1,
        tags=flags.saved_model_tags,
        session_config=session_config(
            flags.tensorflow_session_config_file,
            both=both,
            intra=intra,
            inter=flags.tensorflow_inter_op_parallelism,
            gpu_fraction=flags.per_process_gpu_memory_fraction,
            workers=_workers(flags),
        ),
        batching=_batching(flags),
        per_model_batching=flags.enable_per_model_batching_parameters,
    )


def _metrics_path(flags: argparse.Namespace) -> str | None:
    if not flags.monitoring_config_file:
        return None
    config = config_messages.read(
        flags.monitoring_config_file, config_messages.MonitoringConfig, "--monitoring_config_file"
    ).prometheus_config
    path: str = config.path or DEFAULT_PATH
    if not path.startswith("/"):
        raise UsageError(
            f"--monitoring_config_file: path is {path!r}; expected one that begins with /, like {DEFAULT_PATH}"
        )
    return path if config.enable else None


def _batching(flags: argparse.Namespace) -> BatchingParameters | None:
    if not flags.enable_batching:
        for name in ("batching_parameters_file", "enable_per_model_batching_parameters"):
            if getattr(flags, name):
                raise UsageError(f"--{name} is set without --enable_batching; pass that too")
        return None
    if not flags.batching_parameters_file:
        return BatchingParameters(thread_pool_name="model_server_batch_threads")
    return batching_config.read(Path(flags.batching_parameters_file), "--batching_parameters_file")


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
    group.add_argument(
        "--num_load_threads", type=_at_least(0), default=0, metavar="N",
        help="how many models with new versions are loaded at a time; 0: one after the other",
    )  # fmt: skip
    group.add_argument(
        "--num_unload_threads", type=_at_least(0), default=0, metavar="N",
        help="how many versions can wait for their last requests while other things go on; 0: none",
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
        "--port", type=_port, default=8500, metavar="PORT",
        help=f"gRPC port; {ANY_PORT}: any free one, 0: only --grpc_socket_path",
    )  # fmt: skip
    group.add_argument(
        "--grpc_socket_path", type=_file, metavar="PATH",
        help="a Unix socket for gRPC, beside the port; one worker serves it, who may connect is by the umask",
    )  # fmt: skip
    group.add_argument(
        "--rest_api_port", type=_port, default=0, metavar="PORT",
        help=f"REST port; {ANY_PORT}: any free one, 0: no REST",
    )  # fmt: skip
    group.add_argument(
        "--grpc_max_threads",
        type=_at_least(0),
        default=0,
        metavar="N",
        help="gRPC requests at a time; 0: 4 per core, shared out among the workers; 128 with batching",
    )
    group.add_argument(
        "--rest_api_num_threads", type=_at_least(0), default=0, metavar="N",
        help="REST requests at a time; 0: 4 per core, shared out among the workers; 128 with batching",
    )  # fmt: skip
    group.add_argument(
        "--monitoring_config_file", type=Path, metavar="FILE",
        help="a MonitoringConfig in text format: whether Prometheus finds metrics on the REST port, and where",
    )  # fmt: skip
    group.add_argument(
        "--rest_api_timeout_in_ms", type=_integer, default=30_000, metavar="MS",
        help="how long a REST request may wait until its model is run; 0: as long as it takes",
    )  # fmt: skip
    group.add_argument(
        "--grpc_channel_arguments", type=_arguments, default="", metavar="NAME=VALUE,…",
        help="gRPC's own, such as grpc.max_connection_age_ms=2000",
    )  # fmt: skip
    group.add_argument(
        "--ssl_config_file", type=_file, metavar="FILE",
        help="TLS for gRPC and REST: an SSLConfig in text format, which holds the PEM texts",
    )  # fmt: skip
    _add_bool(group, "use_alts_credentials", "not supported")
    _add_bool(group, "rest_api_enable_cors_support", "let browsers call REST from pages of other servers")
    _add_bool(group, "enable_grpc_healthcheck_service", "answer grpc.health.v1.Health on the gRPC port")
    _add_bool(
        group,
        "enable_grpc_reflection",
        "tell clients such as grpcurl the gRPC services and their messages (not in tensorflow_model_server)",
        default=True,
    )
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
        group,
        "enable_signature_method_name_check",
        "classify and regress only with signatures that are exported for it",
    )
    _add_bool(
        group,
        "prefer_tflite_model",
        "serve the TFLite file of a version that has one; TensorFlow stays unloaded",
    )
    group.add_argument(
        "--num_request_iterations_for_warmup", type=_at_least(0), default=0, metavar="N",
        help="how often each of them is run; 0: once",
    )  # fmt: skip
    group.add_argument(
        "--saved_model_tags", type=_tags, default="serve", metavar="TAG,…",
        help="which graph of a SavedModel to serve",
    )  # fmt: skip
    group.add_argument(
        "--tensorflow_session_parallelism", type=_at_least(0), default=0, metavar="N",
        help="threads of an inference, in each worker; 0: TFLite one, but for a large batch idle cores help; "
        "TensorFlow the worker's share of the cores",
    )  # fmt: skip
    group.add_argument(
        "--tensorflow_intra_op_parallelism", type=_at_least(0), default=0, metavar="N",
        help="threads of one operator, and of TFLite",
    )  # fmt: skip
    group.add_argument(
        "--tensorflow_inter_op_parallelism", type=_at_least(0), default=0, metavar="N",
        help="operators that TensorFlow runs at a time",
    )  # fmt: skip
    group.add_argument(
        "--tensorflow_session_config_file", type=_file, metavar="FILE",
        help="TensorFlow's other settings: a ConfigProto in text format; flags go before it",
    )  # fmt: skip
    group.add_argument(
        "--per_process_gpu_memory_fraction", type=_fraction, default=0.0, metavar="0.0…1.0",
        help="of a GPU's memory for each worker; 0: what it needs",
    )  # fmt: skip
    _add_bool(group, "enable_batching", "run requests that come at the same time together")
    group.add_argument(
        "--batching_parameters_file", default="", metavar="FILE",
        help="how: a BatchingParameters in text format",
    )  # fmt: skip
    _add_bool(
        group,
        "enable_per_model_batching_parameters",
        "how, by each version's own batching_params.pbtxt; without one, it isn't batched",
    )

    group.add_argument(
        "--num_tflite_interpreters_per_pool", type=_at_least(1), default=4, metavar="N",
        help="inferences of one TFLite model at a time, in each worker; each has memory of its own, made when needed",
    )  # fmt: skip
    group.add_argument(
        "--num_tflite_pools", type=_at_least(1), default=1, metavar="N", help="multiplies that number"
    )


def _add_process(flags: argparse.ArgumentParser) -> None:
    group = flags.add_argument_group("process (not in tensorflow_model_server)")
    group.add_argument(
        "--ready_file", type=Path, metavar="PATH",
        help="write {host, grpc_port, rest_port, pid} there as JSON when all models are available",
    )  # fmt: skip
    group.add_argument(
        "--workers", type=_at_least(0), default=cores(), metavar="N",
        help="processes that share the ports; each loads all models. 0: serve from this process",
    )  # fmt: skip
    group.add_argument(
        "--worker_timeout_seconds", type=_at_least(2), default=30, metavar="S",
        help="a worker that gives no sign of life for so long is killed and replaced",
    )  # fmt: skip
    _add_bool(group, "log_requests", "write one line of JSON per request")
    _add_bool(
        group,
        "enable_server_timing",
        "say in each answer where its time went: a Server-Timing header, and server-timing in trailing metadata",
    )
    group.add_argument(
        "--shutdown_grace_seconds", type=_at_least(0), default=30, metavar="S",
        help="what requests in flight get after SIGTERM",
    )  # fmt: skip


def _add_limits(flags: argparse.ArgumentParser) -> None:
    group = flags.add_argument_group("limits (not in tensorflow_model_server)")
    for name, default, unit, description in (
        ("max_body_bytes", Limits.body_bytes, "N", "of a REST body, unpacked too, and of a gRPC message"),
        ("max_header_bytes", Limits.header_bytes, "N", "of a REST request's headers, and of gRPC metadata"),
        ("max_json_depth", Limits.json_depth, "N", "of lists and objects in each other"),
        ("max_tensor_elements", Limits.tensor_elements, "N", "of each input"),
        ("max_connections", Limits.connections, "N", "to each port of a worker"),
        ("max_requests", Limits.requests, "N", "that a worker answers at a time, or has waiting, for each port"),
        ("receive_timeout_seconds", round(Limits.request_seconds), "S", "for a request to arrive; over REST, large "
            "ones have more time"),
        ("min_bytes_per_second", Limits.slowest_bytes_per_second, "N", "for large REST requests, and for answers"),
        ("idle_timeout_seconds", round(Limits.idle_seconds), "S", "until a connection without requests is closed"),
    ):  # fmt: skip
        group.add_argument(f"--{name}", type=_at_least(1), default=default, metavar=unit, help=description)


def _add_ignored(flags: argparse.ArgumentParser) -> None:
    group = flags.add_argument_group("accepted and ignored, as the log says")
    for name, (neutral, reason) in IGNORED.items():
        if isinstance(neutral, bool):
            _add_bool(group, name, reason, default=neutral)
        else:
            group.add_argument(
                f"--{name}", type=_integer if isinstance(neutral, int) else str, default=neutral,
                metavar="N" if isinstance(neutral, int) else "VALUE", help=reason,
            )  # fmt: skip


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


def _file(text: str) -> Path | None:
    # As TensorFlow Serving: no name is no file.
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
            raise argparse.ArgumentTypeError(f"{each!r}: this server sets it by itself, for its --workers")
        # As in TensorFlow Serving: what is no int32 is a text.
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
