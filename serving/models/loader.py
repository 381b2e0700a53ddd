"""One version directory to one loaded model: which runtime runs it, how strict its shapes are, how it is batched."""

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

# The process that starts the workers handles loaders, too, and never loads anything. What only loading needs is
# imported when it is done: it would take longer than all else at the server's start.
if TYPE_CHECKING:
    from tfship.export.runtimes.protocol import Runtime
    from tfship.serving.inference.batching import Observer
    from tfship.serving.inference.execution import Loaded
    from tfship.serving.inference.scheduler import BatchScheduler

__all__ = ["Loader"]

# For the largest tensor of a batch that TFLite runs at once. Today's processors have 1 or 2 MiB of second-level cache
# per core; the MNIST CNN takes 225 µs an image below this, 231 at half, 234 at double, 249 at four times as much.
_CACHE_BYTES = 2 * 2**20

# TensorFlow Serving never compares shapes with the signature, and people rely on it: its own documentation
# sends vectors to a [-1, 1] input. But some kernels abort the whole process on a rank they don't expect
# (Conv2D on rank 3). So shapes that don't match are let through only to graphs made of nothing but the
# operators below, which work on any shape or check it and fail cleanly.
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
    """Loads version directories: SavedModels, or with `prefer_tflite` their TFLite files (see `served_file`).

    With `warmup`, the requests that a version brings are run before it counts as loaded (`serving.models.warmup`), each
    of them `warmup_iterations` times. `threads` is what LiteRT has for an inference, and `interpreters` how many
    inferences of a TFLite file may run at a time, each in memory of its own; `large_batches` says how many of those
    run at a time, and by how many threads (`serving.inference.batch_splitting`). For TensorFlow, threads and more are
    in `session_config`, a serialised ConfigProto; `tags` are those of the SavedModel's graph that is served.

    With `batching`, requests to a model are run together, on threads that all models share. With
    `per_model_batching`, `batching` sets only these threads: versions bring the rest, in `batching_params.pbtxt`,
    and those that don't aren't batched. `on_batch` is told of every run.
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
        """Load the version directory `path`. Raises ArtifactError if it holds no model that can be run."""
        from tfship.serving.inference.execution import Loaded
        from tfship.serving.models import served_file

        parameters = self._parameters(path)
        tflite = served_file.find(path)
        if self.prefer_tflite and tflite:
            # Each runtime is imported only when it is needed: TensorFlow takes seconds and half a gigabyte.
            from tfship.export.runtimes.litert import LiteRT
            from tfship.serving.inference.batch_splitting import SplitRuntime

            litert = LiteRT(tflite, self.threads, self.interpreters)
            rows = max(1, _CACHE_BYTES // max(1, litert.row_bytes))
            runtime = self._batched(SplitRuntime(litert, rows, *self.large_batches), parameters)
            loaded = Loaded(runtime, any_shape=False, kind="TFLite")
            return self._warmed(path, loaded, fitting=True)
        graph = path / "saved_model.pb"
        if not graph.is_file() and tflite:
            raise ArtifactError(
                f"{path}: holds {tflite.relative_to(path)} and no SavedModel; pass --prefer_tflite_model"
            )
        any_shape = graph.is_file() and _operators(_tagged(graph, self.tags)) <= _SAFE_OPERATORS
        from tfship.export.runtimes.saved_model import SavedModel

        runtime = self._batched(SavedModel(path, tags=self.tags, config=self.session_config), parameters)
        return self._warmed(path, Loaded(runtime, any_shape), fitting=False)

    def _parameters(self, path: Path) -> BatchingParameters | None:
        if not self.batching or not self.per_model_batching:
            return self.batching
        from tfship.export.preprocessing.input_contract import BATCHING

        own = path / BATCHING
        if not own.is_file():
            return None
        try:
            return batching_config.read(own, "--enable_per_model_batching_parameters")
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

    def _warmed(self, path: Path, loaded: "Loaded", *, fitting: bool) -> "Loaded":
        from tfship.serving.models import warmup

        try:
            iterations = self.warmup_iterations
            count = warmup.replay(path, loaded, fitting=fitting, iterations=iterations) if self.warmup else 0
        except BaseException:
            loaded.runtime.close()
            raise
        return replace(loaded, notes=(f"warmed up with {count} requests",)) if count else loaded


def _tagged(path: Path, tags: Sequence[str]) -> Any:
    """Return the MetaGraphDef with exactly these tags in a saved_model.pb."""
    try:
        model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    except DecodeError:
        # As TensorFlow says it, of any file that it can't decode.
        status = StatusError(Code.OUT_OF_RANGE, "Read less bytes than requested")
        raise ArtifactError(f"{path}: damaged; expected a SavedModel protocol buffer") from status
    for meta_graph in model.meta_graphs:
        if set(meta_graph.meta_info_def.tags) == set(tags):
            return meta_graph
    found = ", ".join(_set(each.meta_info_def.tags) for each in model.meta_graphs) or "none"
    missing = f"Could not find meta graph def matching supplied tags: {_set(tags)}"
    raise ArtifactError(f"{path}: {missing}; found {found}; --saved_model_tags chooses") from StatusError(
        Code.NOT_FOUND, missing
    )


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
