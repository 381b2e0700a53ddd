"""Conversion of command-line flags to `Settings`."""

import argparse
from pathlib import Path

from tfship.export.runtimes import web_build
from tfship.serving.grpc import http2
from tfship.serving.inference import batching_config
from tfship.serving.inference.batching_config import BatchingParameters
from tfship.serving.metrics.metrics import DEFAULT_PATH
from tfship.serving.models.loader import Loader
from tfship.serving.models.manager import LoadPolicy
from tfship.serving.models.session_config import session_config
from tfship.serving.protos import config_messages
from tfship.serving.server import tls
from tfship.serving.server.settings import ANY_PORT, Limits, Settings, cores, cores_each
from tfship.train.common.errors import UsageError

__all__ = ["settings"]


def settings(flags: argparse.Namespace) -> Settings:
    """Return the server settings for `flags`. Raises UsageError for invalid combinations."""
    if flags.port == 0 and not flags.grpc_socket_path:
        raise UsageError(
            f"--port=0 without --grpc_socket_path: expected one of them, or --port={ANY_PORT} for any free port"
        )
    if flags.use_alts_credentials:
        # An error, because ignoring the flag would open a server that was meant to be restricted.
        raise UsageError(
            "--use_alts_credentials: not supported; leave it out, and secure the ports with --ssl_config_file"
        )
    # A request that waits for its batch occupies a thread.
    threads = 128 if flags.enable_batching else max(2, 4 * cores() // max(1, flags.workers))
    return Settings(
        host=flags.host,
        grpc_port=flags.port,
        grpc_socket=flags.grpc_socket_path,
        rest_port=flags.rest_api_port,
        tls=tls.read(flags.ssl_config_file) if flags.ssl_config_file else None,
        tls_file=flags.ssl_config_file,
        workers=_workers(flags),
        worker_timeout_seconds=flags.worker_timeout_seconds,
        metrics_path=_metrics_path(flags),
        log_format=flags.log_format,
        logs_requests=flags.log_requests,
        tells_timing=flags.enable_server_timing or flags.web,  # the page shows them
        web_folder=web_build.built("--web") if flags.web else None,
        grpc_threads=flags.grpc_max_threads or threads,
        grpc_arguments=flags.grpc_channel_arguments,
        http2_engine=http2.resolved(flags.http2_engine),
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
            # The process has no other work at the start; the number is TensorFlow Serving's.
            first_load_threads=4 * cores(),
            load_threads=flags.num_load_threads,
            unload_threads=flags.num_unload_threads,
            cache_folder=flags.model_cache_dir,
        ),
        limits=Limits(
            body_bytes=flags.max_body_bytes,
            header_bytes=flags.max_header_bytes,
            json_depth=flags.max_json_depth,
            tensor_elements=flags.max_tensor_elements,
            connections=flags.max_connections,
            requests=flags.max_requests,
            streams=flags.max_streams,
            request_seconds=flags.receive_timeout_seconds,
            slowest_bytes_per_second=flags.min_bytes_per_second,
            idle_seconds=flags.idle_timeout_seconds,
        ),
    )


def _workers(flags: argparse.Namespace) -> int:
    # A Unix socket is served by one worker, so without a port more workers would be idle.
    workers: int = flags.workers
    return workers if flags.port or flags.rest_api_port else min(1, workers)


def _loader(flags: argparse.Namespace) -> Loader:
    both, intra = flags.tensorflow_session_parallelism, flags.tensorflow_intra_op_parallelism
    interpreters = flags.num_tflite_pools * flags.num_tflite_interpreters_per_pool
    share = cores_each(flags.workers)
    return Loader(
        prefer_tflite=_runtime(flags) == "tflite",
        saved_model_only=_runtime(flags) == "savedmodel",
        verify=flags.verify_versions,
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


def _runtime(flags: argparse.Namespace) -> str:
    """Return one of `flags.RUNTIMES`."""
    runtime: str | None = flags.runtime
    if not flags.prefer_tflite_model:
        return runtime or "auto"
    if runtime not in (None, "tflite"):
        raise UsageError(
            f"--prefer_tflite_model means --runtime=tflite, and --runtime={runtime} is set; pass one"
        )
    return "tflite"


def _metrics_path(flags: argparse.Namespace) -> str | None:
    if not flags.monitoring_config_file:
        return None
    config = config_messages.read(
        flags.monitoring_config_file, config_messages.MonitoringConfig, "--monitoring_config_file"
    ).prometheus_config
    path: str = config.path or DEFAULT_PATH
    if not path.startswith("/"):
        raise UsageError(
            f"--monitoring_config_file: path is {path!r}; expected one that begins with /, such as {DEFAULT_PATH}"
        )
    return path if config.enable else None


def _batching(flags: argparse.Namespace) -> BatchingParameters | None:
    if not flags.enable_batching:
        for name in ("batching_parameters_file", "enable_per_model_batching_parameters"):
            if getattr(flags, name):
                raise UsageError(f"--{name} is set without --enable_batching; pass both")
        return None
    if not flags.batching_parameters_file:
        return BatchingParameters(thread_pool_name="model_server_batch_threads")
    return batching_config.read(Path(flags.batching_parameters_file), "--batching_parameters_file")
