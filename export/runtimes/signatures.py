"""Signatures of SavedModels as Python functions. Loads TensorFlow on first use."""

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

# Keras' name for the endpoint of `model.export`, unless that is the default signature.
_KERAS_ENDPOINT = "serve"
# Operations that only move the values of their first input, of any type; the attribute T is the type.
_MOVES = {"ExpandDims", "Identity", "Reshape", "Squeeze", "StridedSlice", "Transpose"}
# Operations with the same output for an integer image and for the same numbers in float32.
_READS = {"ResizeBilinear", "Shape"}


@dataclass(frozen=True)
class SignatureFunction:
    """A signature with one input and one output.

    `call` takes a tensor of `dtype` (TensorFlow's name) and `shape` (None for a free size) and returns the output.
    `tracked` holds its variables. `precision` is the coarsest type used for computation: float32, bfloat16 or float16.
    """

    call: Callable[[Any], Any]
    shape: tuple[int | None, ...]
    dtype: str
    tracked: Any
    precision: str


def open_signature(path: Path) -> SignatureFunction:
    """Load the signature `serving_default`, or else the only one, of the SavedModel folder `path`.

    If TensorFlow can't restore its Python objects, it is loaded as in servers: as a graph with variables. Raises
    ArtifactError with TensorFlow's message if it can't be loaded or the signature doesn't fit.
    """
    tf = tensorflow()
    failure: Exception | None = None
    # Exceptions are caught inside: `silent` prints the suppressed output if one passes through it.
    with silent():
        try:
            loaded = tf.saved_model.load(str(path))
            found = None
            if hasattr(loaded, "graph") and _references(loaded.graph.as_graph_def()):
                # TensorFlow 1's reference variables, which TensorFlow 2 can't save.
                found = _as_graph(path)
        except Exception as error:  # noqa: BLE001 - restoring the objects may raise any error
            try:
                found = _as_graph(path)
            except ArtifactError as refusal:
                failure = refusal
            except Exception:  # noqa: BLE001 - the first error is the more informative one
                failure = error
    if isinstance(failure, ArtifactError):
        raise failure
    if failure is not None:
        raise ArtifactError(
            f"{path}: TensorFlow can't load it ({reason(failure)}); expected a SavedModel folder, for example one "
            "written by model.export"
        ) from failure
    if found is not None:
        return found
    signature = loaded.signatures[_choose(path, loaded.signatures)]
    inputs, outputs = signature.structured_input_signature[1], list(signature.structured_outputs)
    _require_one_of_each(path, inputs, outputs)
    ((name, spec),) = inputs.items()

    # The default argument keeps the variables alive: the function only holds their handles.
    def call(images: Any, _kept: Any = loaded) -> Any:
        return signature(**{name: images})[outputs[0]]

    precision = _precision(signature.graph.as_graph_def())
    handles = {id(each.handle) for each in signature.variables}
    # Without the optimizer's variables, unless the signature also uses other resources, such as tables.
    only_variables = all(id(each) in handles for each in signature.captured_inputs)
    tracked = list(signature.variables) if only_variables else loaded
    return SignatureFunction(call, _shape(path, spec.shape), spec.dtype.name, tracked, precision)


def in_float32(
    function: Callable[[Any], Any], shape: Sequence[int | None], dtype: str
) -> Callable[[Any], Any] | None:
    """Return a copy of `function` that takes and computes in float32; None if that isn't possible.

    `shape` and `dtype` are those of its input. The weights become constants. Integer images become the same numbers in
    float32. This is only possible if the graph moves and casts them, and doesn't compute with integers.
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
    # The lambda restricts the function to one argument.
    return lambda images: pruned(images)


def _as_graph(path: Path) -> SignatureFunction:
    """Return the signature of the SavedModel `path`, loaded into a session, with its values in new variables."""
    tf = tensorflow()
    v1 = tf.compat.v1
    with v1.Session(graph=tf.Graph()) as session:
        meta = v1.saved_model.loader.load(session, ["serve"], str(path))
        signature = meta.signature_def[_choose(path, meta.signature_def)]
        _require_one_of_each(path, signature.inputs, signature.outputs)
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
    # So that converters find the variables.
    wrapped.graph.variables = list(variables.values())
    found = wrapped.graph.as_graph_element
    pruned = wrapped.prune(found(source.name), found(target.name))

    # The default argument keeps the variables alive: the function only holds their handles.
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
    """Rename the graph's functions uniquely: TensorFlow refuses a second function with a known name."""
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
    # TensorFlow's internal signatures, such as the initialization, are excluded.
    names = [name for name in signatures if not name.startswith("__")]
    if DEFAULT_SIGNATURE in names:
        return DEFAULT_SIGNATURE
    if len(names) == 1 or _KERAS_ENDPOINT in names:
        return names[0] if len(names) == 1 else _KERAS_ENDPOINT
    raise ArtifactError(
        f"{path}: has no signature {DEFAULT_SIGNATURE}; there are {', '.join(names) or 'none'}; save it with "
        f"{DEFAULT_SIGNATURE}, for example by model.export"
    )


def _require_one_of_each(path: Path, inputs: Any, outputs: Any) -> None:
    if len(inputs) != 1 or len(outputs) != 1:
        raise ArtifactError(
            f"{path}: the signature has inputs {', '.join(inputs) or 'none'} and outputs {', '.join(sorted(outputs))}; "
            "expected one image and one score for each class; save it with a signature that has one of each"
        )


def _shape(path: Path, shape: Any) -> tuple[int | None, ...]:
    if shape.rank is None:
        raise ArtifactError(
            f"{path}: the input's shape is unknown; expected images [None, height, width, 1 or 3]; save it with a "
            "signature that fixes the shape"
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
    """Replace all other floating-point types in a frozen graph by float32: TFLite has no kernels for them."""
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
    """Change a frozen graph's placeholder, and all operations before the cast, to float32; return whether it worked."""
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
    # If a moved tensor is the graph's output, its type changes too; callers cast the output to float32.
    return True
