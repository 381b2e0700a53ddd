"""The model server, which combines models and ports; run by `tfship serve` and by tests."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tfship.serving.models.config_watcher import ConfigFile
from tfship.serving.models.manager import ModelManager
from tfship.serving.server.settings import ANY_PORT, Settings
from tfship.serving.server.sockets import check_free, check_path, remove_path
from tfship.serving.server.worker_pool import WorkerPool
from tfship.train.common.errors import UsageError

if TYPE_CHECKING:
    from tfship.serving.server.host import Host

__all__ = ["ANY_PORT", "ModelServer", "Settings"]


class ModelServer:
    """Server of the models in a ModelServerConfig: in this process, or in `settings.workers` worker processes.

    Call `start()`, send requests to `grpc_port` and `rest_port`, and call `stop()`, also if `start()` raised or was
    interrupted. The ports open once all models are available, as in
    TensorFlow Serving.
    """

    def __init__(self, config: Any, settings: Settings) -> None:
        self._settings = settings
        self._started_with = config
        self._host = _host(settings, self._reload)
        self._models = ModelManager(config, self._host, settings.loading)
        self._config: ConfigFile | None = None
        self.grpc_port = 0
        self.rest_port = 0

    def start(self) -> None:
        """Load the models and open the ports.

        Raises UsageError, before loading, if a port can't be opened, and ArtifactError if a model can't be loaded.
        """
        settings = self._settings
        if settings.grpc_port == settings.rest_port not in (0, ANY_PORT):
            raise UsageError(f"--port and --rest_api_port are both {settings.grpc_port}; expected two ports")
        for port in (settings.grpc_port, settings.rest_port):
            if port:
                check_free(settings.host, max(0, port))
        if settings.grpc_socket:
            check_path(settings.grpc_socket)
        if isinstance(self._host, WorkerPool):
            self._host.start()
        self._models.start()
        self.grpc_port, self.rest_port = self._host.open(settings.grpc_port, settings.rest_port)
        if settings.config_file and settings.config_poll_seconds:
            self._config = ConfigFile(
                settings.config_file, settings.config_poll_seconds, self._models.reload, self._started_with
            )
            self._config.start()

    def stop(self, grace_seconds: float = 0.0) -> None:
        """Refuse new requests, wait `grace_seconds` for those in flight, and unload the models."""
        self._models.stop()
        self._host.close(grace_seconds)
        if self._config:
            self._config.stop()
        self._models.join()
        if self._settings.grpc_socket:
            remove_path(self._settings.grpc_socket)

    def _reload(self, config: Any) -> None:
        self._models.reload(config)


def _host(settings: Settings, reload: Callable[[Any], None]) -> "Host | WorkerPool":
    if settings.workers:
        return WorkerPool(settings, reload)
    # Imported only here: a main process with workers doesn't need it, and the import takes a third of its start.
    from tfship.serving.server.host import Host

    return Host(settings, reload)
