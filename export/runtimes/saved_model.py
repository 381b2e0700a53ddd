"""TensorFlow runtime for SavedModels, loaded into a session, as in TensorFlow Serving's loader."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from tfship.export.runtimes.protocol import Signature, TensorSpec
from tfship.train.common import tensorflow_loader
from tfship.train.common.errors import ArtifactError

__all__ = ["SavedModel", "signatures_of"]


class SavedModel:
    """A loaded SavedModel directory; a `Runtime`.

    `threads` is the size of each of TensorFlow's two thread pools (0: the size in `config`, or else one per core).
    `tags` select the graph. `config` is a serialized ConfigProto for the session. Raises ArtifactError if the directory
    isn't a SavedModel with these tags, if it can't be loaded, or if TensorFlow isn't installed.
    """

    def __init__(
        self, path: Path, threads: int = 0, *, tags: Sequence[str] = ("serve",), config: bytes = b""
    ) -> None:
        if not any((path / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt")):
            raise ArtifactError(
                f"{path}: holds no saved_model.pb; expected a version directory of `tfship export`"
            )
        try:
            tf = tensorflow_loader.tensorflow()
        except ImportError as error:
            raise ArtifactError(
                f"{path}: a SavedModel needs TensorFlow, which can't be imported ({error}); install it, or serve a "
                "version's TFLite file with --prefer_tflite_model"
            ) from error
        self._errors = tf.errors
        options = tf.compat.v1.ConfigProto.FromString(config)
        options.use_per_session_threads = True
        rewrites = options.graph_options.rewrite_options
        if not rewrites.meta_optimizer_iterations:
            # TensorFlow's default is two. One takes two thirds of the time until the first result: 1.0 instead of
            # 1.5 s for a ResNet50, 2.0 instead of 3.0 s for `serving_bytes` of the digits. Results are the same.
            rewrites.meta_optimizer_iterations = rewrites.ONE
        if threads:
            options.intra_op_parallelism_threads = options.inter_op_parallelism_threads = threads
        self._session = tf.compat.v1.Session(graph=tf.Graph(), config=options)
        try:
            with self._translated(ArtifactError, f"{path}: TensorFlow can't load it"):
                graph = tf.compat.v1.saved_model.loader.load(self._session, list(tags), str(path))
            self._signatures = signatures_of(graph)
            self._calls: dict[str, _Call] = {}
        except BaseException:
            self.close()
            raise

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """All signatures, including TensorFlow's `__saved_model_init_op`, as in TensorFlow Serving."""
        return self._signatures

    def run(self, signature: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See `Runtime.run`."""
        with self._translated(ValueError, None):
            # Made on demand: each optimizes the graph again, which takes seconds, and few clients use all signatures.
            # If two threads make the same one, `setdefault` discards one of them.
            call = self._calls.get(signature)
            if call is None:
                call = self._calls.setdefault(signature, self._prepare(self._signatures[signature]))
            outputs = call.function(*[inputs[name] for name in call.inputs])
        return dict(zip(call.outputs, outputs, strict=True))

    def close(self) -> None:
        """Free the model's memory."""
        self._session.close()

    def _prepare(self, signature: Signature) -> "_Call":
        from tensorflow.core.protobuf import config_pb2

        # The public interfaces are slower. One image of the digits' MLP takes 62 µs of processor time with this
        # private method, 343 with `Session.make_callable`, and 842 with a concrete function. `make_callable` also
        # refuses shapes that TensorFlow Serving accepts, and a concrete function ignores the session's settings.
        # Keras' `function` uses the same method.
        options = config_pb2.CallableOptions()
        options.feed.extend(spec.name for spec in signature.inputs.values())
        options.fetch.extend(spec.name for spec in signature.outputs.values())
        # Run in the calling thread: for a small model, the hand-off to a pool takes longer than the inference.
        options.run_options.inter_op_thread_pool = -1
        function = self._session._make_callable_from_options(options)
        return _Call(function, tuple(signature.inputs), tuple(signature.outputs))

    @contextlib.contextmanager
    def _translated(self, error_type: type[Exception], where: str | None) -> Iterator[None]:
        try:
            yield
        except self._errors.OpError as error:
            raise error_type(f"{where} ({error.message})" if where else error.message) from error
        except UnicodeDecodeError as error:
            # TensorFlow raises this instead of OpError if its message quotes an input that isn't UTF-8.
            message = error.object.decode(errors="replace")
            raise error_type(f"{where} ({message})" if where else message) from error
        except (RuntimeError, OSError) as error:
            raise error_type(f"{where} ({error})" if where else str(error)) from error


@dataclass(frozen=True)
class _Call:
    """A prepared call of a signature: `function` takes and returns tensors in the order of these names."""

    function: Callable[..., Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def signatures_of(meta_graph: Any) -> dict[str, Signature]:
    """Return the signatures in `meta_graph`, a MetaGraphDef. Doesn't need TensorFlow."""
    return {name: _signature(each) for name, each in meta_graph.signature_def.items()}


def _signature(definition: Any) -> Signature:
    return Signature(
        {name: _spec(info) for name, info in definition.inputs.items()},
        {name: _spec(info) for name, info in definition.outputs.items()},
        definition.method_name,
    )


def _spec(info: Any) -> TensorSpec:
    shape = info.tensor_shape
    sizes = None if shape.unknown_rank else tuple(each.size for each in shape.dim)
    return TensorSpec(info.name, info.dtype, sizes)
