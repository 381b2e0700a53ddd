"""The one way to load TensorFlow: late, and without its chatter."""

import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

from tfship.train.common import interruption

__all__ = ["WITHOUT_KERAS", "quiet", "tensorflow"]

# The environment of processes that need TensorFlow and no Keras: TensorFlow doesn't import it then, which takes a third
# of the time. Not for those that run users' code: `tensorflow.keras` would be Keras 2.
WITHOUT_KERAS = {"TF_USE_LEGACY_KERAS": "1"}


def tensorflow() -> Any:
    """Import TensorFlow quietly and return it. Takes seconds and some 500 MB the first time."""
    # Several threads may load models: only one may hold stderr back, and no other see a module that is half there.
    with _importing:
        return _tensorflow()


_importing = threading.RLock()


def _tensorflow() -> Any:
    if "tensorflow" in sys.modules:
        return sys.modules["tensorflow"]
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    # A digit classifier needs no GPU; without this, a machine that has one gives all its memory away.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    with interruption.loading(), quiet():
        import tensorflow as tf

        # Looks for devices now, so that what it has to say about missing ones is said in here.
        tf.config.list_physical_devices()
    tf.get_logger().setLevel("ERROR")
    return tf


@contextlib.contextmanager
def quiet() -> Iterator[Callable[[], str]]:
    """Hold back what C++ code writes to stderr past every log level; yield a function that returns it so far.

    If the body raises, what was held back is shown: it may say why. For commands with one thread: what
    other threads say meanwhile is held back too.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)

        def said() -> str:
            held.seek(0)
            return held.read().decode(errors="replace")

        try:
            yield said
        except BaseException:
            os.write(kept, said().encode())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
