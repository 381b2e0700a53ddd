"""The model server: models, REST and gRPC put together; `python -m serving` runs it, tests hold it."""

import contextlib
import logging
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import uvicorn
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from serving.config_file import ConfigFile
from serving.grpc_services import OPTIONS, SERVICES, add_services
from serving.inference import Inference
from serving.loading import Loader
from serving.models import LoadPolicy, ModelManager
from serving.predict import Predictor
from serving.rest import RestApi
from train.errors import UsageError

__all__ = ["ANY_PORT", "ModelServer", "Settings"]

log = logging.getLogger(__name__)

ANY_PORT = -1
# TensorFlow Serving's default for both of its pools: work that waits doesn't keep a core from the rest.
_THREADS = 4 * (os.cpu_count() or 1)
# Request line and headers; TensorFlow Serving's own limit lets 20 kB names and 60 kB headers pass.
_MAX_HEADER_BYTES = 128 * 1024


@dataclass(frozen=True)
class Settings:
    """Everything about a server but its models.

    Ports: ANY_PORT takes a free one; `rest_port` 0 is no REST. `config_file` is looked at every
    `config_poll_seconds`, if that isn't 0.
    """

    host: str = "127.0.0.1"
    grpc_port: int = 8500
    rest_port: int = 0
    grpc_threads: int = _THREADS
    rest_threads: int = _THREADS
    packed_answers: bool = False
    cors: bool = False
    health: bool = False
    config_file: Path | None = None
    config_poll_seconds: float = 0.0
    loader: Loader = field(default_factory=Loader)
    loading: LoadPolicy = field(default_factory=LoadPolicy)


class ModelServer:
    """Serves the models of a ModelServerConfig.

    Use: `start()`, then requests to `grpc_port` and `rest_port`, then `stop()`, also when `start()` raised
    or was interrupted. The ports answer once every model is available, as TensorFlow Serving's do.
    """

    def __init__(self, config: Any, settings: Settings) -> None:
        self._settings = settings
        self._models = ModelManager(config, settings.loader, settings.loading)
        self._grpc: grpc.Server | None = None
        self._rest: _RestServer | None = None
        self._config: ConfigFile | None = None
        self._health: health.HealthServicer | None = None
        self.grpc_port = 0
        self.rest_port = 0

    def start(self) -> None:
        """Load the models and open the ports.

        Raises UsageError for a port that can't be had, before anything is loaded, and ArtifactError for a
        model that can't be.
        """
        settings = self._settings
        if settings.grpc_port == settings.rest_port != ANY_PORT:
            raise UsageError(f"--port and --rest_api_port are both {settings.grpc_port}; expected two ports")
        for port in (settings.grpc_port, settings.rest_port):
            if port:
                _listener(settings.host, max(0, port)).close()
        self._models.start()
        predictor, inference = Predictor(self._models), Inference(self._models)
        if settings.rest_port:
            pool = ThreadPoolExecutor(settings.rest_threads, thread_name_prefix="rest")
            listener = _listener(settings.host, max(0, settings.rest_port))
            self.rest_port = listener.getsockname()[1]
            self._rest = _RestServer(RestApi(predictor, inference, pool, cors=settings.cors), pool, listener)
        self._grpc = grpc.server(
            ThreadPoolExecutor(settings.grpc_threads, thread_name_prefix="grpc"), options=OPTIONS
        )
        if settings.health:
            self._health = health.HealthServicer()
            health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
            for name in ("", *SERVICES):
                self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        add_services(self._grpc, predictor, inference, packed_answers=settings.packed_answers)
        address = f"{_bracketed(settings.host)}:{max(0, settings.grpc_port)}"
        try:
            self.grpc_port = self._grpc.add_insecure_port(address)
        except RuntimeError:
            raise UsageError(f"{address}: can't listen there; is the port in use?") from None
        self._grpc.start()
        if self._rest:
            self._rest.start()
        if settings.config_file and settings.config_poll_seconds:
            self._config = ConfigFile(settings.config_file, settings.config_poll_seconds, self._models.reload)
            self._config.start()

    def stop(self, grace_seconds: float = 0.0) -> None:
        """Take no more requests, give those that run `grace_seconds` to end, and unload the models."""
        deadline = time.monotonic() + grace_seconds
        if self._health:
            # First of all, so that nothing new is sent here.
            self._health.enter_graceful_shutdown()
        if self._config:
            self._config.stop()
        grpc_stopped = self._grpc.stop(grace_seconds) if self._grpc else None
        if self._rest:
            self._rest.stop(grace_seconds)
        if grpc_stopped:
            grpc_stopped.wait()
        self._models.stop(max(0.0, deadline - time.monotonic()))


class _RestServer:
    """uvicorn in a thread of its own; `pool` is what the API runs its requests in."""

    def __init__(self, api: RestApi, pool: ThreadPoolExecutor, listener: socket.socket) -> None:
        self._listener = listener
        self._pool = pool
        self._server = uvicorn.Server(
            uvicorn.Config(
                api,
                http="h11",  # the same behaviour whatever else is installed
                loop="asyncio",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
            )
        )
        self._thread = threading.Thread(target=self._run, name="rest", daemon=True)

    def start(self) -> None:
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            time.sleep(0.005)

    def stop(self, grace_seconds: float) -> None:
        # uvicorn reads 0 as "at once" only if it is an int, and None as "for ever".
        self._server.config.timeout_graceful_shutdown = max(0, round(grace_seconds))
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._listener.close()

    def _run(self) -> None:
        self._server.run(sockets=[self._listener])


def _listener(host: str, port: int) -> socket.socket:
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise UsageError(f"--host {host}: {error.strerror}") from None
    # The protocol is spelled out because asyncio sets TCP_NODELAY only where it sees it; without, every answer
    # on a kept connection waits 40 ms for the client's acknowledgement of its headers.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        # Otherwise the port stays taken for a minute after a server with open connections has ended.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        with contextlib.suppress(OSError):
            listener.close()
        raise UsageError(f"{_bracketed(host)}:{port}: can't listen there ({error.strerror})") from None
    return listener


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
