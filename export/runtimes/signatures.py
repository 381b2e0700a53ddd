"""A SavedModel's signature as a function. Loads TensorFlow when it is used."""

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfship.export.runtimes.protocol import DEFAULT_SIGNATURE
from tfship.export.sources.keras_files import reason, silent
from tfship.train.common.errors import ArtifactError
from tfship.train.common.tensorflow_loader import tensorflow

__all__ = ["SignatureFunction", "in_float32", "open_signature"]

# Keras' name for the endpoint of `model.export`, where it isn't the default signature.
_KERAS_ENDPOINT = "serve"
# Operations that pass their first input's values on, whatever their type; the attribute T is that type.
_MOVES = {"ExpandDims", "Identity", "Reshape", "Squeeze", "StridedSlice", "Transpose"}
# Operations that answer the same for an image of integers and for the same numbers in float32.
_READS = {"ResizeBilinear", "Shape"}


@dataclass(frozen=True)
class SignatureFunction:
    """A signature with one input and one output.

    `call` takes a tensor of `dtype` (a name of TensorFlow's) and `shape`, None for a free size, and returns the output.
    `tracked` holds its variables. `precision` is the coarsest type it computes in: float32, bfloat16 or float16.
    """

    call: Callable[[Any], Any]
    shape: tuple[int | None, ...]
    dtype: str
    tracked: Any
    precision: str


def open_signature(path: Path) -> SignatureFunction:
    """Load the signature `serving_default`, or else the only one, of a SavedModel's folder.

    A SavedModel whose Python objects TensorFlow can't restore is loaded as servers load it: as a graph with variables.
    Raises ArtifactError with TensorFlow's own reason.
    """
    tf = tensorflow()
    failure: Exception | None = None
    # Within it, since it shows what it held back if an exception passes.
    with silent():
        try:
            loaded = tf.saved_model.load(str(path))
            found = None
            if hasattr(loaded, "graph") and _references(loaded.graph.as_graph_def()):
                # TensorFlow 1's own kind of variables, which TensorFlow 2 can't save.
                found = _as_graph(path)
        except Exception as error:  # noqa: BLE001 - it raises whatever restoring the objects raises
            try:
                found = _as_graph(path)
            except ArtifactError as refusal:
                failure = refusal
            except Exception:  # noqa: BLE001 - the first reason is the better one
                failure = error
    if isinstance(failure, ArtifactError):
        raise failure
    if failure is not None:
        raise ArtifactError(
            f"{path}: TensorFlow can't load it ({reason(failure)}); expected the folder of a SavedModel, as "
            "model.export writes it"
        ) from failure
    if found is not None:
        return found
    signature = loaded.signatures[_choose(path, loaded.signatures)]
    inputs, outputs = signature.structured_input_signature[1], list(signature.structured_outputs)
    _one_of_each(path, inputs, outputs)
    ((name, spec),) = inputs.items()

    # The function holds its variables' handles only.
    def call(images: Any, _kept: Any = loaded) -> Any:
        return signature(**{name: images})[outputs[0]]

    precision = _precision(signature.graph.as_graph_def())
    handles = {id(each.handle) for each in signature.variables}
    # Only what the signature uses: not the optimizer's variables. Tables and the like aren't variables.
    alone = all(id(each) in handles for each in signature.captured_inputs)
    tracked = list(signature.variables) if alone else loaded
    return SignatureFunction(call, _shape(path, spec.shape), spec.dtype.name, tracked, precision)


def in_float32(
    function: Callable[[Any], Any], shape: Sequence[int | None], dtype: str
) -> Callable[[Any], Any] | None:
    """Return `function`, which takes this shape and dtype, as one that takes and computes in float32, or None.

    The weights become constants. Images of integers are taken as the same numbers in float32 where the graph only
    moves and casts them; else None.
    """
    tf = tensorflow()
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    def named(images: Any) -> Any:
        return tf.identity(function(images), "scores")

    concrete = tf.function(named).get_concrete_function(tf.TensorSpec(shape, dtype))
    frozen = convert_variables_to_constants_v2(concrete, lower_control_flow=False, aggressive_inlining=True)
    graph = frozen.graph.as_graph_def()
    _compute_in_float32(graph)
    if tf.as_dtype(dtype).is_integer and not _takes_float32(graph, frozen.inputs[0].op.name):
        return None

    def build() -> None:
        tf.graph_util.import_graph_def(graph, name="")

    wrapped = tf.compat.v1.wrap_function(build, [])
    found = wrapped.graph.as_graph_element
    pruned = wrapped.prune(found(frozen.inputs[0].name), found(frozen.outputs[0].name))
    # Called with one tensor; a concrete function may be given its inputs by position.
    return lambda images: pruned(images)


def _as_graph(path: Path) -> SignatureFunction:
    """Return the signature of a SavedModel loaded into a session, with its values in new variables."""
    tf = tensorflow()
    v1 = tf.compat.v1
    with v1.Session(graph=tf.Graph()) as session:
        meta = v1.saved_model.loader.load(session, ["serve"], str(path))
        signature = meta.signature_def[_choose(path, meta.signature_def)]
        _one_of_each(path, signature.inputs, signature.outputs)
        (source,), (target,) = signature.inputs.values(), signature.outputs.values()
        outputs = [target.name.partition(":")[0]]
        used = v1.graph_util.extract_sub_graph(meta.graph_def, outputs)
        if _references(used):
            used = v1.graph_util.convert_variables_to_constants(session, used, outputs)
        handles = [node.name for node in used.node if node.op == "VarHandleOp"]
        reads = {
            name: tf.raw_ops.ReadVariableOp(
                resource=session.graph.get_tensor_by_name(f"{name}:0"),
                dtype=session.graph.get_operation_by_name(name).get_attr("dtype"),
            )
            for name in handles
        }
        values = session.run(reads)
        _rename_functions(used)
        shape = session.graph.get_tensor_by_name(source.name).shape
    variables = {name: tf.Variable(value, trainable=False) for name, value in values.items()}

    def build() -> None:
        handles = {
            f"{name}:0": v1.get_default_graph().capture(variable.handle)
            for name, variable in variables.items()
        }
        tf.graph_util.import_graph_def(used, input_map=handles, name="")

    wrapped = v1.wrap_function(build, [])
    # So that whatever converts the function finds them.
    wrapped.graph.variables = list(variables.values())
    found = wrapped.graph.as_graph_element
    pruned = wrapped.prune(found(source.name), found(target.name))

    # The function holds its variables' handles only.
    def call(images: Any, _kept: Any = variables) -> Any:
        return pruned(images)

    return SignatureFunction(
        call,
        _shape(path, shape),
        tf.as_dtype(source.dtype).name,
        list(variables.values()),
        _precision(used),
    )


def _references(graph: Any) -> bool:
    return graph is not None and any(node.op in ("Variable", "VariableV2") for node in graph.node)


def _rename_functions(graph: Any) -> None:
    """Give a graph's functions names that no function of this process has: TensorFlow refuses another of a name."""
    ending = uuid.uuid4().hex
    names = {each.signature.name: f"{each.signature.name}_{ending}" for each in graph.library.function}
    for node in _nodes(graph):
        node.op = names.get(node.op, node.op)
        for attribute in node.attr.values():
            for called in (attribute.func, *attribute.list.func):
                if called.name in names:
                    called.name = names[called.name]
    for function in graph.library.function:
        function.signature.name = names[function.signature.name]
    graph.library.ClearField("gradient")


def _choose(path: Path, signatures: Any) -> str:
    # TensorFlow's own, which only initializes, is no choice.
    names = [name for name in signatures if not name.startswith("__")]
    if DEFAULT_SIGNATURE in names:
        return DEFAULT_SIGNATURE
    if len(names) == 1 or _KERAS_ENDPOINT in names:
        return names[0] if len(names) == 1 else _KERAS_ENDPOINT
    raise ArtifactError(
        f"{path}: has no signature {DEFAULT_SIGNATURE}; there are {', '.join(names) or 'none'}; save it with one, as "
        "model.export does"
    )


def _one_of_each(path: Path, inputs: Any, outputs: Any) -> None:
    if len(inputs) != 1 or len(outputs) != 1:
        raise ArtifactError(
            f"{path}: the signature has inputs {', '.join(inputs) or 'none'} and outputs {', '.join(sorted(outputs))}; "
            "expected one image and one score for each class; save it with a signature that has one of each"
        )


def _shape(path: Path, shape: Any) -> tuple[int | None, ...]:
    if shape.rank is None:
        raise ArtifactError(
            f"{path}: takes a tensor of any shape; expected images [None, height, width, 1 or 3]; save it with a "
            "signature that gives the shape"
        )
    return tuple(shape.as_list())


def _precision(graph: Any) -> str:
    tf = tensorflow()
    types = {attribute.type for node in _nodes(graph) for attribute in node.attr.values()}
    for dtype in (tf.bfloat16, tf.float16):
        if dtype.as_datatype_enum in types:
            return str(dtype.name)
    return "float32"


def _nodes(graph: Any) -> Iterator[Any]:
    yield from graph.node
    for function in graph.library.function:
        yield from function.node_def


def _compute_in_float32(graph: Any) -> None:
    """Replace all other floating point types in a frozen graph: TFLite has no kernels for them."""
    tf = tensorflow()
    others = {dtype.as_datatype_enum for dtype in (tf.float16, tf.bfloat16, tf.float64)}
    single = tf.float32.as_datatype_enum
    for node in _nodes(graph):
        for attribute in node.attr.values():
            if attribute.type in others:
                attribute.type = single
            for position, each in enumerate(attribute.list.type):
                if each in others:
                    attribute.list.type[position] = single
            if attribute.HasField("tensor") and attribute.tensor.dtype in others:
                values = tf.make_ndarray(attribute.tensor).astype(np.float32)
                attribute.tensor.CopyFrom(tf.make_tensor_proto(values))
    for function in graph.library.function:
        for argument in (*function.signature.input_arg, *function.signature.output_arg):
            if argument.type in others:
                argument.type = single


def _takes_float32(graph: Any, placeholder: str) -> bool:
    """Make a frozen graph's placeholder float32, and with it all that is done before the cast; tell if that works."""
    single = tensorflow().float32.as_datatype_enum
    changed = [node for node in graph.node if node.name == placeholder]
    changed[0].attr["dtype"].type = single
    for moved in changed:
        for node in graph.node:
            if not any(each.partition(":")[0] == moved.name for each in node.input):
                continue
            if node.op == "Cast":
                node.attr["SrcT"].type = single
            elif node.op in _MOVES | _READS and node.input[0].partition(":")[0] == moved.name:
                node.attr["T"].type = single
                if node.op in _MOVES:
                    changed.append(node)
            else:
                return False
    # A move whose output is the graph's own would change the output's type; it is cast to float32 afterwards.
    return True
