"""Command that starts the model server.

tfship serve                                  all models in the folder models: REST on 8501, gRPC on 8500
tfship serve --model_base_path=models/nn      one model, gRPC only, as in tensorflow_model_server
"""

import argparse
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tfship.export.runtimes import web_build
from tfship.serving.models import config
from tfship.serving.server import flag_settings, flags, logs
from tfship.serving.server.model_server import ModelServer, Settings
from tfship.serving.server.settings import Limits
from tfship.serving.server.sockets import allow_connections, bracketed
from tfship.train.common import cli, files
from tfship.train.common.errors import UsageError

log = logging.getLogger("tfship.serving")
# Longest delay before a signal that another thread has received is handled.
_SIGNAL_SECONDS = 1.0
_MODELS, _REST_PORT = Path("models"), 8501


class _Stopped(BaseException):
    """SIGTERM or SIGINT was received; not an Exception, so that error handlers don't catch it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `model_server`; without a model flag, serve all models in the folder `models`, with REST as well."""
    options = _parsed(argv)
    if options.model_base_path or options.model_config_file:
        return _serve(options, _models(options))
    options.rest_api_port = options.rest_api_port or _REST_PORT
    return _serve(options, config.models_in(_MODELS))


def serve_folder(folder: Path, argv: Sequence[str], show: Callable[[str], object] | None = None) -> int:
    """Run `model_server` with the flags `argv` for all models in `folder`; `show` gets the web page's URL."""
    return _serve(_parsed(argv), config.models_in(folder, "--models DIR"), show)


def model_server(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; return 0 once the requests in flight are completed."""
    options = _parsed(argv)
    return _serve(options, _models(options))


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    options = flags.parse(argv)
    logs.configure(options.log_format)
    for line in flags.ignored(options):
        log.info(line)
    return options


def _serve(options: argparse.Namespace, models: Any, show: Callable[[str], object] | None = None) -> int:
    settings = _within_limits(flag_settings.settings(options))
    server = ModelServer(models, settings)
    ready_file: Path | None = options.ready_file
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _stop)
    try:
        server.start()
        _announce(server, settings, models.model_config_list.config[0].name)
        if ready_file:
            _write(ready_file, server, options.host)
        log.info("ready")
        if show:
            show(f"{_url(server, settings)}{web_build.ROOT}")
        # With a timeout, because a signal just before the wait, or in another thread, doesn't interrupt it.
        never = threading.Event()
        while not never.wait(_SIGNAL_SECONDS):
            pass
    except _Stopped:
        log.info("stopping: requests in flight have %g s", options.shutdown_grace_seconds)
    finally:
        if ready_file:
            with contextlib.suppress(OSError):
                ready_file.unlink()
        server.stop(options.shutdown_grace_seconds)
    return 0


def _stop(*_: object) -> None:
    # A second signal ends the process at once.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    raise _Stopped


def _within_limits(settings: Settings) -> Settings:
    requested = settings.limits.connections
    allowed = allow_connections(requested)
    if allowed < requested != Limits.connections:
        log.warning(
            "--max_connections=%d: the limit of open files allows %d; raise it (ulimit -n)",
            requested,
            allowed,
        )
    return replace(settings, limits=replace(settings.limits, connections=allowed))


def _write(ready_file: Path, server: ModelServer, host: str) -> None:
    ports = {"grpc_port": server.grpc_port, "rest_port": server.rest_port}
    try:
        files.write_json(ready_file, {"host": host, **ports, "pid": os.getpid()})
    except OSError as error:
        raise UsageError(f"--ready_file={ready_file}: can't be written ({error.strerror})") from None


def _models(options: argparse.Namespace) -> Any:
    if options.model_config_file:
        if options.model_base_path:
            # TensorFlow Serving does the same: its image always passes both.
            log.info("--model_base_path and --model_name are ignored: --model_config_file is set")
        return config.read_config(options.model_config_file)
    if not options.model_base_path:
        raise UsageError(
            "no model: pass --model_base_path=DIR (for example models/nn) or --model_config_file=FILE"
        )
    return config.one_model(options.model_name, options.model_base_path)


def _announce(server: ModelServer, settings: Settings, model: str) -> None:
    host = bracketed(settings.host)
    tls = ", TLS" if settings.tls else ""
    if server.grpc_port:
        log.info(f"gRPC: {host}:{server.grpc_port}{tls}")
    if settings.grpc_socket:
        one = f", by one of {settings.workers} workers" if settings.workers > 1 else ""
        log.info(f"gRPC: unix:{settings.grpc_socket}{tls}{one}")
    if server.rest_port:
        url = _url(server, settings)
        log.info(f"REST: {url}")
        log.info(f"  try: curl {url}/v1/models/{model}")
        if settings.web_folder:
            log.info(f"  web page: {url}{web_build.ROOT}")
    else:
        log.info("REST: off; enable it with --rest_api_port=8501")


def _url(server: ModelServer, settings: Settings) -> str:
    """Return the REST API's URL."""
    return f"{'https' if settings.tls else 'http'}://{bracketed(settings.host)}:{server.rest_port}"


if __name__ == "__main__":
    sys.exit(cli.run(model_server))
