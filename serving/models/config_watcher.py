"""Watcher of the `--model_config_file`, which reloads it when it changes."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tfship.serving.models.config import read_config
from tfship.serving.protos.status import StatusError
from tfship.train.common.errors import UsageError

__all__ = ["ConfigFile"]

log = logging.getLogger(__name__)


class ConfigFile:
    """Watcher of the config file `path`: checks it every `seconds` and calls `reload` with a changed config.

    `served` is the ModelServerConfig that was read from the file before. A config that can't be read or served is tried
    again at each check, as in TensorFlow Serving. The same error is logged once.
    """

    def __init__(self, path: Path, seconds: float, reload: Callable[[Any], None], served: Any) -> None:
        self._path, self._seconds, self._reload = path, seconds, reload
        self._served = served
        self._problem = ""  # the last logged error
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="config", daemon=True)

    def start(self) -> None:
        """Start watching."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching, and wait for a reload in progress."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._stopping.wait(self._seconds):
            try:
                config = read_config(self._path)
                if config != self._served:
                    self._reload(config)
                    self._served = config
                self._problem = ""
            except (UsageError, StatusError) as error:
                self._log_once(str(error))
            except Exception as error:  # noqa: BLE001 - the watcher must go on; the next check may succeed
                self._log_once(f"unexpected {type(error).__name__}: {error}", exc_info=True)

    def _log_once(self, problem: str, *, exc_info: bool = False) -> None:
        if problem != self._problem and not self._stopping.is_set():
            log.warning(
                "%s has changed, but is ignored: %s; it is tried again every %g s",
                self._path,
                problem,
                self._seconds,
                exc_info=exc_info,
            )
        self._problem = problem
