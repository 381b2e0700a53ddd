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

    A config that can't be read or served is logged once and ignored.
    """

    def __init__(self, path: Path, seconds: float, reload: Callable[[Any], None]) -> None:
        self._path, self._seconds, self._reload = path, seconds, reload
        self._content = _content(path)
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
            content = _content(self._path)
            if content == self._content:
                continue
            self._content = content
            try:
                self._reload(read_config(self._path))
            except (UsageError, StatusError) as error:
                log.warning("%s has changed, but is ignored: %s", self._path, error)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
