"""Loader of version directories: chooses the runtime, the shape checks and the batching of a model."""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


@dataclass(frozen=True)
class Loader:
    """Loader of version directories: SavedModels, or with `prefer_tflite` their TFLite files (see `served_file`).

    - `warmup`: run a version's warm-up requests (`serving.models.warmup`), `warmup_iterations` times each, before the
      version counts as loaded.
    - `threads`: LiteRT's threads per inference. `interpreters`: concurrent inferences of a TFLite file, each with
      separate tensors. `large_batches`: concurrent large batches and threads of each
      (`serving.inference.batch_splitting`).
    - `session_config`: TensorFlow's settings, a serialized ConfigProto. `tags`: tags of the SavedModel's graph.
    - `batching`: batch concurrent requests to a model, on threads shared by all models. With `per_model_batching`,
      only the threads are taken from it; the other parameters come from `batching_params.pbtxt` in the version
      directory, and versions without that file aren't batched. `on_batch` is called after each batch.
    """

    prefer_tflite: bool = False
    threads: int = 1
    interpreters: int = 4
    large_batches: tuple[int, int] = (1, 1)
    warmup: bool = True
    warmup_iterations: int = 1
    tags: tuple[str, ...] = ("serve",)
    session_config: bytes = b""
    batching: BatchingParameters | None = None
    per_model_batching: bool = False
    on_batch: "Observer | None" = None

    def load(self, path: Path) -> "Loaded":
        """Load the version directory `path`. Raises ArtifactError if it has no model that can be run."""
        from tfship.serving.inference.execution import Loaded
        from tfship.serving.models import served_file

        parameters = self._parameters(path)
        tflite = served_file.find(path)
        if self.prefer_tflite and tflite:
            # Runtimes are imported on demand: TensorFlow takes seconds and half a gigabyte.
            from tfship.export.runtimes.litert import LiteRT
            from tfship.serving.inference.batch_splitting import SplitRuntime

            litert = LiteRT(tflite, self.threads, self.interpreters)
            rows = max(1, _CACHE_BYTES // max(1, litert.row_bytes))
            runtime = self._batched(SplitRuntime(litert, rows, *self.large_batches), parameters)
            loaded = Loaded(runtime, any_shape=False, kind="TFLite")
            return self._warmed(path, loaded, skip_unfit=True)
        graph = path / "saved_model.pb"
        if not graph.is_file() and tflite:
            raise ArtifactError(
                f"{path}: holds {tflite.relative_to(path)} and no SavedModel; pass --prefer_tflite_model"
            )
        any_shape = graph.is_file() and _operators(_tagged(graph, self.tags)) <= _SAFE_OPERATORS
        from tfship.export.runtimes.saved_model import SavedModel

        runtime = self._batched(SavedModel(path, tags=self.tags, config=self.session_config), parameters)
        return self._warmed(path, Loaded(runtime, any_shape), skip_unfit=False)

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

    @functools.cached_property
    def _scheduler(self) -> "BatchScheduler":
        from tfship.serving.inference.scheduler import BatchScheduler

        pool = self.batching or BatchingParameters()
        return BatchScheduler(pool.thread_pool_name, pool.num_batch_threads)

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
        return replace(loaded, notes=(f"warmed up with {count} requests",)) if count else loaded


def _tagged(path: Path, tags: Sequence[str]) -> Any:
    """Return the MetaGraphDef with exactly `tags` in the saved_model.pb `path`. Raises ArtifactError."""
    try:
        model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    except DecodeError:
        # TensorFlow's message for any file that it can't decode.
        status = StatusError(Code.OUT_OF_RANGE, "Read less bytes than requested")
        raise ArtifactError(f"{path}: damaged; expected a SavedModel protocol buffer") from status
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
