"""One serving process: loads versions, and serves them over REST and gRPC."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tfship.serving.grpc.server import GrpcServer
from tfship.serving.grpc.services import Services
from tfship.serving.http.app import RestApi
from tfship.serving.http.server import RestServer
from tfship.serving.inference.batching import BatchRun
from tfship.serving.inference.examples import Inference
from tfship.serving.inference.predict import Predictor
from tfship.serving.inference.request_context import Observer
from tfship.serving.metrics.metrics import Metrics
from tfship.serving.models.registry import Servables
from tfship.serving.models.snapshot import View
from tfship.serving.server.settings import Settings

__all__ = ["Host"]


class Host:
    """A `Fleet` of one process, and its ports. `reload` is called with the ModelServerConfig of a reload request."""

    def __init__(self, settings: Settings, reload: Callable[[Any], None]) -> None:
        self._settings = settings
        self._metrics = Metrics.at(settings.metrics_path)
        loader = settings.loader
        if self._metrics.path and loader.batching:
            loader = replace(loader, on_batch=self._count_batch)
        self._servables = Servables(loader)
        self._observer = Observer(self._metrics, logs=settings.logs_requests)
        self._predictor = Predictor(self._servables, reload)
        self._inference = Inference(self._servables, checks_methods=settings.checks_methods)
        self._grpc: GrpcServer | None = None
        self._rest: RestServer | None = None

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
        """Open the ports and return their numbers; 0 means no port, ANY_PORT any free one. Raises UsageError."""
        settings = self._settings
        if rest_port:
            api = RestApi(self._predictor, self._inference, self._observer, settings)
            self._rest = RestServer(api, settings, rest_port)
        if grpc_port or settings.grpc_socket:
            services = Services(self._predictor, self._inference, self._observer, settings)
            self._grpc = GrpcServer(services, settings, grpc_port)
            self._grpc.start()
        if self._rest:
            self._rest.start()
        return self._grpc.port if self._grpc else 0, self._rest.port if self._rest else 0

    def close(self, grace_seconds: float = 0.0) -> None:
        """Refuse new requests, wait `grace_seconds` for those in flight, and unload everything."""
        deadline = time.monotonic() + grace_seconds
        if self._rest:
            self._rest.stop(grace_seconds)
        if self._grpc:
            self._grpc.stop(grace_seconds)
        if self._rest:
            self._rest.wait()
        if self._grpc:
            self._grpc.wait()
        self._servables.close(max(0.0, deadline - time.monotonic()))
        self._metrics.close()
