"""Loader of version directories: chooses the runtime, the shape checks and the batching of a model."""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from google.protobuf import text_format
from google.protobuf.message import DecodeError

from tfship.serving.inference import batching_config
from tfship.serving.inference.batching_config import BatchingParameters
from tfship.serving.protos.messages import saved_model_pb2
from tfship.serving.protos.status import Code, StatusError
from tfship.train.common.errors import ArtifactError, UsageError

# The main process also handles `Loader` objects but never loads models. Modules that only loading needs are imported
# in its functions: they would take most of the server's start.
if TYPE_CHECKING:
    from tfship.export.runtimes.protocol import Runtime
    from tfship.serving.inference.batching import Observer
    from tfship.serving.inference.execution import Loaded
    from tfship.serving.inference.scheduler import BatchScheduler

__all__ = ["Loader"]

# Tags of the graph that is for serving (tensorflow/cc/saved_model/tag_constants.h).
_TAGS = ("serve",)
# Files of a SavedModel's graph; TensorFlow's loader uses the first that exists.
_GRAPHS = ("saved_model.pb", "saved_model.pbtxt")
# Limit for the largest tensor of a batch that TFLite runs at once. Current processors have 1 or 2 MiB of L2 cache per
# core. The MNIST CNN takes 225 µs per image with this limit, 231 at half, 234 at double and 249 at four times it.
_CACHE_BYTES = 2 * 2**20

# TensorFlow Serving doesn't compare shapes with the signature, and clients rely on that: its documentation sends
# vectors to a [-1, 1] input. But some kernels abort the process on an unexpected rank (Conv2D on rank 3). Shapes that
# don't match are therefore accepted only by graphs made of the operators below, which handle or check any shape.
_ELEMENTWISE = """
    Abs Add AddN AddV2 BiasAdd Cast Ceil Complex Div DivNoNan Elu Equal Erf Exp Floor FloorDiv Greater
    GreaterEqual LeakyRelu Less LessEqual Log LogSoftmax LogicalAnd LogicalNot LogicalOr Maximum Minimum
    Mul Neg NotEqual Pow RealDiv Reciprocal Relu Relu6 Round Rsqrt Selu Sigmoid Sign Softmax Softplus
    Softsign Sqrt Square SquaredDifference StringLength StringLower StringUpper Sub Tanh
"""
_SHAPES_REDUCTIONS_PRODUCTS = """
    ArgMax ConcatV2 Fill MatMul Max Mean Min Pack Prod Reshape Shape Size StridedSlice Sum
"""
_CONTROL_CONSTANTS_VARIABLES = """
    Assert Assign AssignAdd AssignAddVariableOp AssignVariableOp Const DisableCopyOnRead Identity
    IdentityN MergeV2Checkpoints NoOp ParseExample PartitionedCall Placeholder PlaceholderWithDefault
    ReadVariableOp RestoreV2 SaveV2 Select ShardedFilename StatefulPartitionedCall StaticRegexFullMatch
    StringJoin VarHandleOp VarIsInitializedOp VariableV2
"""
_SAFE_OPERATORS = frozenset(
    f"{_ELEMENTWISE} {_SHAPES_REDUCTIONS_PRODUCTS} {_CONTROL_CONSTANTS_VARIABLES}".split()
)

# Guards the creation of schedulers. `functools.cached_property` has no lock from Python 3.12 on, and a lock in a
# `Loader` couldn't be sent to the workers.
_SCHEDULER_LOCK = threading.Lock()


@dataclass(frozen=True)
class Loader:
    """Loader of version directories: SavedModels, or with `prefer_tflite` their TFLite files (see `served_file`).

    If a version's export card shows that its float32 file equals the SavedModel, the file answers `serving_default`.
    TensorFlow doesn't load the version if there are no other signatures. With `saved_model_only`, TFLite files are
    never used.

    - `warmup`: run a version's warm-up requests (`serving.models.warmup`), `warmup_iterations` times each, before the
      version counts as loaded.
    - `verify`: first check the version's files against its export card (`serving.models.version_verification`).
    - `threads`: LiteRT's threads per inference. `interpreters`: concurrent inferences of a TFLite file, each with
      separate tensors. `large_batches`: concurrent large batches and threads of each
      (`serving.inference.batch_splitting`).
    - `session_config`: TensorFlow's settings, a serialized ConfigProto. `tags`: tags of the SavedModel's graph.
    - `batching`: batch concurrent requests to a model, on threads shared by all models. With `per_model_batching`,
      only the threads are taken from it; the other parameters come from `batching_params.pbtxt` in the version
      directory, and versions without that file aren't batched. `on_batch` is called after each batch.
    """

    prefer_tflite: bool = False
    saved_model_only: bool = False
    verify: bool = False
    threads: int = 1
    interpreters: int = 4
    large_batches: tuple[int, int] = (1, 1)
    warmup: bool = True
    warmup_iterations: int = 1
    tags: tuple[str, ...] = _TAGS
    session_config: bytes = b""
    batching: BatchingParameters | None = None
    per_model_batching: bool = False
    on_batch: "Observer | None" = None

    def load(self, path: Path) -> "Loaded":
        """Load the version directory `path`. Raises ArtifactError if it has no model that can be run."""
        if not path.is_dir():
            raise ArtifactError(f"{path}: no such directory; copy the version there again, or remove it")
        if not self.verify:
            return self._load(path)
        from tfship.serving.models import version_verification

        note = version_verification.verify(path)
        loaded = self._load(path)
        return replace(loaded, notes=(note, *loaded.notes))

    def _load(self, path: Path) -> "Loaded":
        from tfship.serving.inference.execution import Loaded
        from tfship.serving.models import served_file

        parameters = self._parameters(path)
        tflite = served_file.find(path)
        if self.prefer_tflite and tflite:
            runtime = self._batched(self._tflite(tflite), parameters)
            note = f"TFLite ({tflite.relative_to(path)}) answers all requests"
            loaded = Loaded(runtime, any_shape=False, kind="TFLite", notes=(note,))
            return self._warmed(path, loaded, skip_unfit=True)
        graph = next((path / name for name in _GRAPHS if (path / name).is_file()), None)
        if not graph and tflite:
            raise ArtifactError(
                f"{path}: holds {tflite.relative_to(path)} and no SavedModel; pass --prefer_tflite_model"
            )
        meta_graph = _tagged(graph, self.tags) if graph else None
        any_shape = meta_graph is not None and _operators(meta_graph) <= _SAFE_OPERATORS
        # The card is about the graph with the usual tags.
        equal = None if self.saved_model_only or self.tags != _TAGS else served_file.find_equal(path)
        if equal and (routed := self._routed(path, equal, meta_graph, any_shape=any_shape)):
            return self._warmed(
                path, replace(routed, runtime=self._batched(routed.runtime, parameters)), skip_unfit=False
            )
        runtime = self._batched(self._saved_model(path), parameters)
        loaded = Loaded(runtime, any_shape, notes=("TensorFlow answers all requests",))
        return self._warmed(path, loaded, skip_unfit=False)

    def _routed(self, path: Path, equal: Path, meta_graph: Any, *, any_shape: bool) -> "Loaded | None":
        """Return the version `path` with `serving_default` answered by the TFLite file `equal`.

        TensorFlow is loaded for the other signatures, or with `any_shape` for shapes that LiteRT refuses. Returns None
        if LiteRT can't load the file, or if its tensors aren't those of the SavedModel.
        """
        from tfship.export.runtimes.protocol import DEFAULT_SIGNATURE
        from tfship.export.runtimes.saved_model import signatures_of
        from tfship.serving.inference.execution import Loaded
        from tfship.serving.models.signature_routing import RoutedRuntime, have_same_tensors

        signatures = signatures_of(meta_graph)
        try:
            tflite = self._tflite(equal)
        except ArtifactError:
            return None
        found = tflite.signatures.get(DEFAULT_SIGNATURE), signatures.get(DEFAULT_SIGNATURE)
        if not (found[0] and found[1] and have_same_tensors(found[0], found[1])):
            tflite.close()
            return None
        note = f"TFLite ({equal.relative_to(path)}) answers {DEFAULT_SIGNATURE}"
        # The loader's pseudo-signature, which can't be run, has no method name.
        others = sorted(
            name for name, each in signatures.items() if each.method_name and name != DEFAULT_SIGNATURE
        )
        saved_model = None
        if others or any_shape:
            note += f", and TensorFlow answers {', '.join(others) or 'requests of other shapes'}"
            try:
                saved_model = self._saved_model(path)
            except BaseException:
                tflite.close()
                raise
        runtime = RoutedRuntime(signatures, saved_model, {DEFAULT_SIGNATURE: tflite})
        return Loaded(runtime, any_shape, kinds={DEFAULT_SIGNATURE: "TFLite"}, notes=(note,))

    def _saved_model(self, path: Path) -> "Runtime":
        # Runtimes are imported on demand: TensorFlow takes seconds and half a gigabyte.
        from tfship.export.publishing.cards import CARD
        from tfship.export.runtimes.saved_model import SavedModel
        from tfship.serving.inference.batch_splitting import SplitRuntime

        saved_model = SavedModel(path, tags=self.tags, config=self.session_config)
        # Only versions of `tfship export`: other SavedModels may have a state that changes with each run.
        return (
            SplitRuntime(saved_model, None, *self.large_batches) if (path / CARD).is_file() else saved_model
        )

    def _tflite(self, file: Path) -> "Runtime":
        from tfship.export.runtimes.litert import LiteRT
        from tfship.serving.inference.batch_splitting import SplitRuntime
        from tfship.serving.inference.concurrency_limit import LimitedRuntime

        litert = LiteRT(file, self.threads, self.interpreters + 1)
        rows = max(1, _CACHE_BYTES // max(1, litert.row_bytes))
        return SplitRuntime(LimitedRuntime(litert, self.interpreters), rows, *self.large_batches)

    def _parameters(self, path: Path) -> BatchingParameters | None:
        if not self.batching or not self.per_model_batching:
            return self.batching
        from tfship.export.preprocessing.input_contract import BATCHING

        file = path / BATCHING
        if not file.is_file():
            return None
        try:
            return batching_config.read(file, "--enable_per_model_batching_parameters")
        except UsageError as error:
            raise ArtifactError(str(error)) from None

    def _batched(self, runtime: "Runtime", parameters: BatchingParameters | None) -> "Runtime":
        if not parameters:
            return runtime
        from tfship.serving.inference.batching import BatchedRuntime

        return BatchedRuntime(runtime, parameters, self._scheduler, self.on_batch)

    @property
    def _scheduler(self) -> "BatchScheduler":
        """The one scheduler of all models. Models are loaded in several threads, which share it."""
        from tfship.serving.inference.scheduler import BatchScheduler

        pool = self.batching or BatchingParameters()
        with _SCHEDULER_LOCK:
            # Not in `__init__`, because the main process, which sends loaders to the workers, needs none.
            if (found := self.__dict__.get("scheduler")) is None:
                found = self.__dict__["scheduler"] = BatchScheduler(
                    pool.thread_pool_name, pool.num_batch_threads
                )
        return cast("BatchScheduler", found)

    def _warmed(self, path: Path, loaded: "Loaded", *, skip_unfit: bool) -> "Loaded":
        from tfship.serving.models import warmup

        try:
            count = 0
            if self.warmup:
                iterations = self.warmup_iterations
                count = warmup.replay(path, loaded, skip_unfit=skip_unfit, iterations=iterations)
        except BaseException:
            loaded.runtime.close()
            raise
        return replace(loaded, notes=(*loaded.notes, f"warmed up with {count} requests")) if count else loaded


def _read(path: Path) -> Any:
    """Return the SavedModel message in `path`, one of _GRAPHS. Raises ArtifactError."""
    try:
        if path.suffix == ".pbtxt":
            return text_format.Parse(path.read_text(encoding="utf-8"), saved_model_pb2.SavedModel())
        return saved_model_pb2.SavedModel.FromString(path.read_bytes())
    except (DecodeError, text_format.ParseError, UnicodeDecodeError) as error:
        # TensorFlow's messages.
        status = StatusError(Code.OUT_OF_RANGE, "Read less bytes than requested")
        if not isinstance(error, DecodeError):
            status = StatusError(Code.DATA_LOSS, f"Can't parse {path.name} as text proto")
        raise ArtifactError(f"{path}: damaged; expected a SavedModel protocol buffer") from status


def _tagged(path: Path, tags: Sequence[str]) -> Any:
    """Return the MetaGraphDef with exactly `tags` in `path`, one of _GRAPHS. Raises ArtifactError."""
    model = _read(path)
    for meta_graph in model.meta_graphs:
        if set(meta_graph.meta_info_def.tags) == set(tags):
            return meta_graph
    found = ", ".join(_set(each.meta_info_def.tags) for each in model.meta_graphs) or "none"
    missing = f"Could not find meta graph def matching supplied tags: {_set(tags)}"
    raise ArtifactError(
        f"{path}: {missing}; found {found}; choose them with --saved_model_tags"
    ) from StatusError(Code.NOT_FOUND, missing)


def _set(tags: Iterable[str]) -> str:
    return f"{{ {', '.join(tags)} }}"


def _operators(meta_graph: Any) -> set[str]:
    """Return the names of all operators in a MetaGraphDef's graph and functions."""
    graph = meta_graph.graph_def
    functions = {function.signature.name for function in graph.library.function}
    used = _names(graph.node)
    for function in graph.library.function:
        used |= _names(function.node_def)
    return used - functions


def _names(nodes: Iterable[Any]) -> set[str]:
    return {node.op for node in nodes}
