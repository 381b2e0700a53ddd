"""Bodies of `:predict`: requests to tensors and tensors to JSON, in TensorFlow Serving's two formats.

Row: `{"instances": [one value or object per example]}`; the response is `{"predictions": […]}`.
Columnar: `{"inputs": a tensor, or an object of tensors}`; the response is `{"outputs": …}`.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.export.runtimes.protocol import DEFAULT_SIGNATURE, TensorSpec
from tfship.serving.http import json_numbers
from tfship.serving.http.json_text import dump, excerpt, is_base64, kind, parse_object, shortest, to_bytes
from tfship.serving.protos.status import Code, StatusError, invalid
from tfship.serving.protos.tensors import DType, dtype_of

__all__ = ["PredictBody", "decode_inputs", "encode_outputs", "parse_predict"]

# TensorFlow Serving doesn't convert 16-bit floats, complex numbers or uint16 from or to JSON.
_FLOATS = {"float", "double"}
_INTEGERS = {"int8", "int16", "int32", "int64", "uint8", "uint32", "uint64"}


@dataclass(frozen=True)
class PredictBody:
    """The body of a `:predict` request: signature name ("" if none) and undecoded values.

    `values` may be a `Numbers`, the fast path (`serving.http.json_numbers`). If those aren't a regular array, the
    body is parsed again, nested at most `max_depth` deep.
    """

    signature_name: str
    values: Any
    is_row: bool
    max_depth: int | None = None


def parse_predict(body: bytes, max_depth: int | None = None) -> PredictBody:
    """Parse a `:predict` body, nested at most `max_depth` deep. Raises StatusError(INVALID_ARGUMENT)."""
    if numbers := json_numbers.read(body):
        return PredictBody(numbers.signature_name, numbers, numbers.is_row, max_depth)
    return _parse(body, max_depth)


def _parse(body: bytes, max_depth: int | None) -> PredictBody:
    document = parse_object(body, max_depth)
    name = document.get("signature_name", "")
    if "inputs" in document and "instances" in document:
        raise invalid(
            f"JSON Value: {excerpt(document)} Not formatted correctly expecting only one of 'inputs' or "
            "'instances' keys to exist "
        )
    if "inputs" in document:
        return PredictBody(name, document["inputs"], is_row=False)
    if "instances" not in document:
        raise invalid("Missing 'inputs' or 'instances' key")
    instances = document["instances"]
    if not isinstance(instances, list):
        raise invalid(f"JSON Value: {excerpt(document)} Expecting 'instances' to be an list/array")
    return PredictBody(name, instances, is_row=True)


def decode_inputs(body: PredictBody, specs: Mapping[str, TensorSpec]) -> dict[str, NDArray[Any]]:
    """Return the body's values as one tensor per input, with the dtypes of `specs` and the shapes as sent.

    Raises StatusError for values of another type or out of range, ragged lists, missing inputs and, in the row
    format, unknown inputs. REST can't call a signature without inputs; that raises StatusError, too.
    """
    if not specs:
        raise invalid(f"Failed to get input map for signature: {body.signature_name or DEFAULT_SIGNATURE}")
    dtypes = {name: dtype for name, spec in specs.items() if (dtype := dtype_of(spec.dtype))}
    if isinstance(body.values, json_numbers.Numbers):
        array = body.values.tensor(next(iter(dtypes.values()))) if len(dtypes) == 1 else None
        if array is not None and (body.max_depth is None or array.ndim < body.max_depth):
            return dict.fromkeys(dtypes, array)
        body = _parse(body.values.body, body.max_depth)
    return _from_row(body.values, dtypes) if body.is_row else _from_columns(body.values, dtypes)


def encode_outputs(outputs: Mapping[str, NDArray[Any]], *, is_row: bool) -> bytes:
    """Return the response body for `outputs` in the row or the columnar format.

    A float32 has the fewest digits that read back as the same float32. Strings are text; they are base64 if the
    output's name ends in `_bytes` or they aren't UTF-8. Raises StatusError(INVALID_ARGUMENT) for a dtype that JSON
    can't represent and, in the row format, for outputs without a common batch dimension.
    """
    if is_row:
        _check_batch(outputs)
    if len(outputs) == 1 and (content := json_numbers.write(*outputs.values())) is not None:
        return b'{"predictions": %b}' % content if is_row else b'{"outputs": %b}' % content
    values = {name: _to_json(name, array) for name, array in outputs.items()}
    if is_row:
        return dump({"predictions": _rows(values)})
    return dump({"outputs": next(iter(values.values())) if len(values) == 1 else values})


def _from_columns(inputs: Any, dtypes: Mapping[str, DType]) -> dict[str, NDArray[Any]]:
    if _is_named(inputs):
        for name in sorted(dtypes):
            if name not in inputs:
                raise invalid(f"Missing named input: {name} in 'inputs' object.")
        return {name: _tensor(inputs[name], dtype) for name, dtype in dtypes.items()}
    if len(dtypes) > 1:
        raise invalid(
            "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
            "tensorinfo_map"
        )
    return {name: _tensor(inputs, dtype) for name, dtype in dtypes.items()}


def _from_row(instances: list[Any], dtypes: Mapping[str, DType]) -> dict[str, NDArray[Any]]:
    if not instances:
        raise invalid("'instances' is an empty list; a batch has at least one element")
    named = _is_named(instances[0])
    if not named and len(dtypes) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    for index, instance in enumerate(instances):
        if named and not _is_named(instance):
            raise invalid(f"Expecting object but got list at item {index} of input list")
        if not named and _is_named(instance):
            raise invalid(f"Expecting value/list but got object at item {index} of input list")
        if named:
            _check_keys(index, instance, dtypes)
    if not named:
        return {name: _batch(instances, dtype, "") for name, dtype in dtypes.items()}
    return {
        name: _batch([instance[name] for instance in instances], dtype, f" key: {name}")
        for name, dtype in dtypes.items()
    }


def _check_keys(index: int, instance: dict[str, Any], dtypes: Mapping[str, DType]) -> None:
    for key in instance:
        if key not in dtypes:
            raise invalid(
                f"Failed to process element: {index} key: {key} of 'instances' list. Error: INVALID_ARGUMENT: "
                f"JSON object: does not have named input: {key}"
            )
    if len(instance) != len(dtypes):
        raise invalid(
            f"Failed to process element: {index} of 'instances' list. JSON object: {excerpt(instance)} keys must "
            f"be equal to: {','.join(sorted(dtypes))}"
        )


def _batch(values: list[Any], dtype: DType, key: str) -> NDArray[Any]:
    """Return one tensor of all elements' values; an error names the first invalid element."""
    try:
        return _tensor(values, dtype)
    except StatusError as whole:
        shape: tuple[int, ...] | None = None
        for index, value in enumerate(values):
            where = f"Failed to process element: {index}{key} of 'instances' list. Error: "
            try:
                tensor = _tensor(value, dtype)
            except StatusError as error:
                raise invalid(f"{where}{error.code.name}: {error.message}") from None
            if shape is not None and tensor.shape != shape:
                raise invalid(f"{where}INVALID_ARGUMENT: {_shape_mismatch(shape, tensor.shape)}") from None
            shape = tensor.shape
        raise whole


def _shape_mismatch(expected: tuple[int, ...], found: tuple[int, ...]) -> str:
    if len(expected) == len(found):
        return f"Expecting tensor size: {np.prod(expected)} but got: {np.prod(found)}"
    return f"Expecting shape {_shape_text(expected)} but got: {_shape_text(found)}"


def _shape_text(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _tensor(value: Any, dtype: DType) -> NDArray[Any]:
    """Return nested lists as a tensor, with one pass (a loop in C) per dimension."""
    shape: list[int] = []
    level = [value]
    while level and list in (kinds := set(map(type, level))):
        if len(kinds) > 1:
            raise _mixed(level, dtype)
        sizes = set(map(len, level))
        if len(sizes) > 1:
            expected = len(level[0])
            found = next(len(each) for each in level if len(each) != expected)
            raise invalid(
                f"Encountered list at unexpected size: {found} at level: {len(shape)} expected size: {expected}"
            )
        if len(shape) == dtype.max_rank:
            raise invalid(f"Encountered more than {dtype.max_rank} nested lists")
        shape.append(sizes.pop())
        level = list(chain.from_iterable(level))
    return _leaves(level, dtype).reshape(shape)


def _mixed(level: list[Any], dtype: DType) -> StatusError:
    if isinstance(level[0], list):
        return invalid("Encountered a value where a list was expected: all elements must be equally deep")
    return _wrong_type(next(each for each in level if isinstance(each, list)), dtype)


def _leaves(values: list[Any], dtype: DType) -> NDArray[Any]:
    if dtype.is_string:
        strings = np.empty(len(values), np.object_)
        strings[:] = [_string(each, dtype) for each in values]
        return strings
    # Exact types: a bool is an int to Python, but not to TensorFlow.
    if dtype.name in _FLOATS:
        allowed = {int, float}
    elif dtype.name in _INTEGERS:
        allowed = {int}
    elif dtype.name == "bool":
        allowed = {bool}
    else:
        shown = excerpt(values[0]) if values else "[]"
        raise StatusError(Code.UNIMPLEMENTED, f"Conversion of JSON Value: {shown} to type: {dtype.name}")
    if not set(map(type, values)) <= allowed:
        raise _wrong_type(next(each for each in values if type(each) not in allowed), dtype)
    try:
        with np.errstate(over="ignore"):  # beyond float32's range: infinity, as in TensorFlow Serving
            return np.array(values, dtype.numpy)
    except OverflowError:
        raise _wrong_type(next(each for each in values if not _fits(each, dtype)), dtype) from None


def _fits(value: float, dtype: DType) -> bool:
    try:
        np.array(value, dtype.numpy)
    except OverflowError:
        return False
    return True


def _string(value: Any, dtype: DType) -> bytes:
    found = to_bytes(value)
    if found is None:
        raise _wrong_type(value, dtype)
    return found


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and not is_base64(value)


def _to_json(name: str, array: NDArray[Any]) -> Any:
    if array.dtype == np.float32:
        return shortest(array)
    if array.dtype == np.object_:
        as_base64 = name.endswith("_bytes")
        return _nested([_text(each, as_base64) for each in array.ravel()], array.shape)
    if array.dtype == np.float64 or array.dtype == np.bool_ or array.dtype.name in _INTEGERS:
        return array.tolist()
    raise invalid(f"Failed to write JSON value for tensor type: {array.dtype.name}")


def _text(value: bytes, as_base64: bool) -> str | dict[str, str]:
    if not as_base64:
        try:
            return value.decode()
        except UnicodeDecodeError:
            pass  # JSON must be UTF-8; base64 keeps the bytes
    return {"b64": base64.b64encode(value).decode()}


def _nested(flat: list[Any], shape: tuple[int, ...]) -> Any:
    cells = np.empty(len(flat), np.object_)
    cells[:] = flat
    return cells.reshape(shape).tolist()


def _check_batch(outputs: Mapping[str, NDArray[Any]]) -> None:
    batch: int | None = None
    for name, array in sorted(outputs.items()):
        if not array.shape:
            raise invalid(f"Tensor name: {name} has no shape information ")
        if batch is not None and len(array) != batch:
            raise invalid(f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {batch}")
        batch = len(array)


def _rows(values: Mapping[str, list[Any]]) -> list[Any]:
    if len(values) == 1:
        return next(iter(values.values()))
    return [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]


def _wrong_type(value: Any, dtype: DType) -> StatusError:
    return invalid(f"JSON Value: {excerpt(value)} Type: {kind(value)} is not of expected type: {dtype.name}")
