"""One serving process: loads versions, and serves them over REST and gRPC."""

import functools
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tfship.serving.grpc.connection import GrpcConnection
from tfship.serving.grpc.server import GrpcServer
from tfship.serving.grpc.services import methods, open_inference_methods
from tfship.serving.http.app import RestApi
from tfship.serving.http.protocol import HttpConnection
from tfship.serving.inference.batching import BatchRun
from tfship.serving.inference.examples import Inference
from tfship.serving.inference.predict import Predictor
from tfship.serving.inference.request_context import Observer
from tfship.serving.metrics.metrics import Metrics
from tfship.serving.models.registry import Servables
from tfship.serving.models.snapshot import View
from tfship.serving.open_inference.grpc_service import OpenInferenceGrpc
from tfship.serving.open_inference.rest import OpenInferenceRest
from tfship.serving.server.connections import Connections
from tfship.serving.server.dispatch import Dispatcher
from tfship.serving.server.event_loop import EventLoop
from tfship.serving.server.settings import Settings
from tfship.serving.server.sockets import bound, listening_at
from tfship.serving.server.tls import ReplaceableContext, TlsFile

__all__ = ["Host"]


class Host:
    """A `Fleet` of one process, and its ports. `reload` is called with the ModelServerConfig of a reload request."""

    def __init__(self, settings: Settings, reload: Callable[[Any], None]) -> None:
        self._settings = settings
        self._metrics = Metrics.at(settings.metrics_path, settings.metrics_folder)
        loader = settings.loader
        if self._metrics.path and loader.batching:
            loader = replace(loader, on_batch=self._count_batch)
        self._servables = Servables(loader)
        self._observer = Observer(self._metrics, logs=settings.logs_requests)
        self._predictor = Predictor(self._servables, reload)
        self._inference = Inference(self._servables, checks_methods=settings.checks_methods)
        # The server may be stopped while its ports open.
        self._opening = threading.Lock()
        self._closed = False
        self._loop: EventLoop | None = None
        self._grpc: GrpcServer | None = None
        self._dispatchers: list[Dispatcher] = []
        self._contexts: list[ReplaceableContext] = []
        self._tls_file: TlsFile | None = None

    def load(self, key: int, path: Path) -> tuple[str, ...]:
        """See `Fleet.load`."""
        return self._servables.load(key, path)

    def unload(self, key: int) -> None:
        """See `Fleet.unload`."""
        self._servables.unload(key)

    def publish(self, view: View) -> None:
        """See `Fleet.publish`."""
        self._servables.publish(view)
        for name, model in view.items():
            self._metrics.versions(name, Counter(each.state.name for each in model.statuses))

    def release(self) -> None:
        """See `Fleet.release`."""
        self._servables.release()

    def _count_batch(self, run: BatchRun) -> None:
        self._metrics.batch(run.thread_pool_name, run.queued_seconds)

    def open(self, grpc_port: int, rest_port: int) -> tuple[int, int]:
        """Open the ports and return their numbers; 0 means no port, ANY_PORT any free one. Raises UsageError.

        Opens none after `close`, which another thread may call at any time.
        """
        with self._opening:
            if self._closed:
                return 0, 0
            self._loop = loop = EventLoop()
            ports = [0, 0]
            if grpc_port or self._settings.grpc_socket:
                ports[0] = self._listen_grpc(loop, grpc_port)
            if rest_port:
                ports[1] = self._listen_rest(loop, rest_port)
            if self._settings.tls_file:
                self._tls_file = TlsFile(self._settings.tls_file, self._contexts)
            loop.start()
        return ports[0], ports[1]

    def _listen_grpc(self, loop: EventLoop, port: int) -> int:
        settings = self._settings
        dispatcher = self._dispatcher(loop, "grpc", settings.grpc_threads)
        own = methods(self._predictor, self._inference, settings)
        open_inference = OpenInferenceGrpc(self._predictor, self._servables, settings.limits)
        self._grpc = GrpcServer(
            {**own, **open_inference_methods(open_inference)}, self._observer, dispatcher, settings
        )
        service = self._grpc.service
        listen = functools.partial(
            loop.listen,
            connect=functools.partial(GrpcConnection, service),
            connections=service.connections,
            tls=self._tls("h2"),
            handshake_seconds=settings.limits.request_seconds,
        )
        if settings.grpc_socket:
            listen(listening_at(settings.grpc_socket))
        if not port:
            return 0
        listener = bound(settings.host, max(0, port), shared=settings.workers > 0)
        listen(listener)
        return int(listener.getsockname()[1])

    def _listen_rest(self, loop: EventLoop, port: int) -> int:
        settings = self._settings
        dispatcher = self._dispatcher(loop, "rest", settings.rest_threads)
        open_inference = OpenInferenceRest(self._predictor, self._servables, settings.limits)
        api = RestApi(
            *(self._servables, self._predictor, self._inference, open_inference),
            *(self._observer, dispatcher, settings),
        )
        connections = Connections(settings.limits.connections)
        listener = bound(settings.host, max(0, port), shared=settings.workers > 0)
        loop.listen(
            listener,
            functools.partial(HttpConnection, api, settings.limits, connections),
            connections,
            self._tls("http/1.1"),
            settings.limits.request_seconds,
        )
        return int(listener.getsockname()[1])

    def _tls(self, protocol: str) -> ssl.SSLContext | None:
        if not self._settings.tls:
            return None
        self._contexts.append(ReplaceableContext(self._settings.tls, protocol))
        return self._contexts[-1].context

    def _dispatcher(self, loop: EventLoop, name: str, threads: int) -> Dispatcher:
        settings = self._settings
        batches = settings.loader.batching is not None or settings.loader.per_model_batching
        found = Dispatcher(loop.loop, name, threads, settings.limits.requests, measures=not batches)
        self._dispatchers.append(found)
        return found

    def close(self, grace_seconds: float = 0.0) -> None:
        """Refuse new requests, wait `grace_seconds` for those in flight, and unload everything."""
        deadline = time.monotonic() + grace_seconds
        with self._opening:
            self._closed = True
        if self._tls_file:
            self._tls_file.stop()
        if self._loop:
            if self._grpc and self._grpc.health:
                # First, so that load balancers send no new requests.
                self._loop.call(self._grpc.health.stop)
            self._loop.stop(grace_seconds)
        for dispatcher in self._dispatchers:
            dispatcher.close()
        self._servables.close(max(0.0, deadline - time.monotonic()))
        self._metrics.close()
