"""What a gRPC client may send: messages that are nearly right, configurations, and HTTP/2 that isn't."""

import struct
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from fuzzing.cases import GRPC, Case, Served, mutated
from serving_fixtures import ROOT
from tfship.serving.protos.messages import (
    classification_pb2,
    example_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    input_pb2,
    model_management_pb2,
    model_pb2,
    model_server_config_pb2,
    predict_pb2,
    regression_pb2,
    tensor_pb2,
)
from tfship.serving.protos.tensors import DTYPES, dtype_of

__all__ = ["METHODS", "PREDICT", "calls", "configs", "frames", "inputs", "predictions", "reloads", "tensors"]

_PREDICTION, _MODEL = "/tensorflow.serving.PredictionService/", "/tensorflow.serving.ModelService/"
PREDICT = f"{_PREDICTION}Predict"
# All that leave the models as they are.
METHODS = [
    *(
        f"{_PREDICTION}{name}"
        for name in ("Predict", "Classify", "Regress", "MultiInference", "GetModelMetadata")
    ),
    f"{_MODEL}GetModelStatus",
]
_RELOAD = f"{_MODEL}HandleReloadConfigRequest"

_INT64 = st.integers(-(2**63), 2**63 - 1)
_INT32 = st.integers(-(2**31), 2**31 - 1)
_TEXTS = st.sampled_from(["", "x", "\0", "a/b", "../..", "\u00e4\U0001f600", "y" * 20_000]) | st.text(
    max_size=5
)
# Sizes whose product overflows, is negative, or would fill the memory.
_SIZES = st.sampled_from([0, 1, 1, 2, 3, -1, 2**16, 2**31, 2**32, 2**62, 2**63 - 1, -(2**63)])
_MOST_BYTES = 1 << 22
_SHAPES = st.lists(_SIZES, max_size=5) | st.integers(0, 300).map(lambda rank: [1] * rank)
_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "float_val": st.floats(width=32),
    "double_val": st.floats(),
    "half_val": st.sampled_from([0, 1, 0x3C00, 0x7C00, 0xFFFF, 0x10000, -1]),
    "int_val": st.sampled_from([0, 1, -1, 127, 128, 255, 256, 65535, 65536]) | _INT32,
    "int64_val": st.sampled_from([0, 1, -1]) | _INT64,
    "uint32_val": st.integers(0, 2**32 - 1),
    "uint64_val": st.integers(0, 2**64 - 1),
    "bool_val": st.booleans(),
    "scomplex_val": st.floats(width=32),
    "dcomplex_val": st.floats(),
    "string_val": st.binary(max_size=8),
}
# By their numbers: hypothesis may print what a strategy draws from, and refuses where that is long.
_PNGS = [path.read_bytes() for path in sorted((ROOT / "client" / "samples").glob("*.png"))]
_PICTURES = st.sampled_from(range(len(_PNGS))).map(lambda number: _PNGS[number])
_CONTENTS = st.binary(max_size=64) | st.sampled_from(
    [b"\0" * 8, b"\x01\x02abc", b"\xff\xff\xff\xff\x7f", b"\x80" * 20]
)


@st.composite
def tensors(draw: st.DrawFn, dtype: int, shape: tuple[int, ...] | None) -> Any:
    """Draw a TensorProto for an input of a signature; mostly there is nothing wrong with it."""
    odd = draw(st.sampled_from([""] * 8 + ["shape", "shape", "dtype", "content", "values", "fields"]))
    number = draw(st.sampled_from(list(DTYPES)) | _INT32) if odd == "dtype" else dtype
    proto = tensor_pb2.TensorProto(dtype=number)
    sizes = [draw(st.sampled_from([1, 1, 2, 3, 0])) if size < 0 else size for size in shape or ()]
    if odd == "shape":
        sizes = draw(_SHAPES)
        proto.tensor_shape.unknown_rank = draw(st.booleans())
    for size in sizes:
        proto.tensor_shape.dim.add(size=size, name="d" * (odd == "fields"))
    known = dtype_of(number) or DTYPES[1]
    count = 1
    for size in sizes:
        count = min(count * max(0, size), 4096)
    if odd == "content" or (not known.is_string and draw(st.booleans())):
        size = count * known.numpy.itemsize
        proto.tensor_content = (
            draw(_CONTENTS) if odd == "content" else draw(st.sampled_from([b"\0", b"\x01", b"\xff"])) * size
        )
    else:
        values = _VALUES[known.field]
        if known.is_string:
            values |= mutated(_PICTURES)
        given = draw(st.lists(values, min_size=min(count, 3), max_size=3 if odd != "values" else 6))
        getattr(proto, known.field).extend(given)
    if odd == "fields":
        proto.version_number = draw(_INT32)
        for name in draw(st.lists(st.sampled_from(sorted(_VALUES)), max_size=3)):
            getattr(proto, name).append(draw(_VALUES[name]))
        proto.resource_handle_val.add(device="/job:x", container="c", name="n", hash_code=1)
        proto.variant_val.add(type_name="t", metadata=b"m").tensors.add(dtype=1)
    return proto


@st.composite
def _spec(draw: st.DrawFn, served: Served) -> Any:
    spec = model_pb2.ModelSpec(name=served.model, signature_name=served.signature)
    match draw(st.sampled_from([""] * 30 + ["name", "version", "label", "signature", "none"])):
        case "name":
            spec.name = draw(_TEXTS)
        case "version":
            spec.version.value = draw(_INT64 | st.just(1))
        case "label":
            spec.version_label = draw(_TEXTS)
        case "signature":
            spec.signature_name = draw(_TEXTS)
        case "none":
            return None
    return spec


@st.composite
def predictions(draw: st.DrawFn, served: Served) -> Any:
    """Draw a PredictRequest."""
    request = predict_pb2.PredictRequest(model_spec=draw(_spec(served)))
    for name, each in served.inputs.items():
        if draw(st.integers(0, 29)):
            request.inputs[name].CopyFrom(draw(tensors(*each)))
    if not draw(st.integers(0, 29)):
        request.inputs[draw(_TEXTS)].CopyFrom(draw(tensors(1, (-1,))))
    if not draw(st.integers(0, 11)):
        request.output_filter.extend(
            draw(st.lists(st.sampled_from(["y", "outputs", "scores", ""]) | _TEXTS, max_size=3))
        )
    return request


@st.composite
def _example(draw: st.DrawFn) -> Any:
    example = example_pb2.Example()
    if draw(st.booleans()):
        example.features.feature["x"].float_list.value.append(draw(st.floats(width=32)))
        return example
    names = st.sampled_from(["x", "x", "image/encoded", "y"]) | _TEXTS
    for name in draw(st.lists(names, max_size=3)):
        feature = example.features.feature[name]
        match draw(st.sampled_from(["float", "float", "bytes", "int64", "none"])):
            case "float":
                feature.float_list.value.extend(draw(st.lists(st.floats(width=32), max_size=3)))
            case "bytes":
                values = st.binary(max_size=8) | (mutated(_PICTURES))
                feature.bytes_list.value.extend(draw(st.lists(values, max_size=3)))
            case "int64":
                feature.int64_list.value.extend(draw(st.lists(_INT64, max_size=3)))
    return example


@st.composite
def inputs(draw: st.DrawFn) -> Any:
    """Draw an Input: a list of examples, with or without a context."""
    made = input_pb2.Input()
    examples = draw(st.lists(_example(), max_size=4))
    match draw(st.sampled_from(["list", "list", "context", "none"])):
        case "list":
            made.example_list.examples.extend(examples)
        case "context":
            # Many, but no gigabytes where there are pictures in them.
            most = max(1, _MOST_BYTES // max(1, sum(each.ByteSize() for each in examples)))
            times = min(most, draw(st.sampled_from([1, 1, 5000])))
            made.example_list_with_context.examples.extend(examples * times)
            made.example_list_with_context.context.CopyFrom(draw(_example()))
            if not draw(st.integers(0, 9)):
                feature = made.example_list_with_context.context.features.feature["large"]
                feature.bytes_list.value.append(bytes(100_000))
    return made


@st.composite
def calls(draw: st.DrawFn, served: Sequence[Served]) -> Case:
    """Draw a call of any method that leaves the models as they are."""
    one = draw(st.sampled_from(served))
    methods = ["Predict"] * 20 + [
        "Classify",
        "Regress",
        "MultiInference",
        "GetModelMetadata",
        "GetModelStatus",
    ]
    if one.inputs.keys() == {"inputs"}:
        methods += ["Classify", "Regress", "MultiInference"] * 7
    method = draw(st.sampled_from(methods))
    if method == "Predict":
        request = draw(predictions(one))
    elif method == "Classify":
        request = classification_pb2.ClassificationRequest(model_spec=draw(_spec(one)), input=draw(inputs()))
    elif method == "Regress":
        request = regression_pb2.RegressionRequest(model_spec=draw(_spec(one)), input=draw(inputs()))
    elif method == "MultiInference":
        request = inference_pb2.MultiInferenceRequest(input=draw(inputs()))
        for each in draw(st.lists(st.sampled_from(served) | st.just(one), max_size=3)):
            name = draw(
                st.sampled_from(["tensorflow/serving/classify", "tensorflow/serving/regress"]) | _TEXTS
            )
            request.tasks.add(method_name=name, model_spec=draw(_spec(each)))
    elif method == "GetModelMetadata":
        fields = draw(st.lists(st.just("signature_def") | _TEXTS, max_size=3))
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=draw(_spec(one)), metadata_field=fields
        )
    else:
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=draw(_spec(one)))
    path = f"{_MODEL if method == 'GetModelStatus' else _PREDICTION}{method}"
    return Case("grpc", path, draw(mutated(st.just(request.SerializeToString()))))


@st.composite
def configs(draw: st.DrawFn, kept: Any) -> Any:
    """Draw a ModelServerConfig that holds all of `kept` and something that can't be served."""
    config = model_server_config_pb2.ModelServerConfig()
    config.CopyFrom(kept)
    models = config.model_config_list.config
    paths = [
        "",
        "x",
        "../x",
        "/",
        "/dev/null",
        "/proc",
        "/nowhere",
        "/a\0b",
        "/" + "a" * 5000,
        "gs://",
        "s3:///a",
        "file:///a",
        "~",
    ]
    entry = models.add(
        name=draw(_TEXTS | st.just(models[0].name)),
        base_path=draw(st.sampled_from(paths)),
        model_platform=draw(st.sampled_from(["tensorflow", "tensorflow", "tensorflow", "", "caffe"])),
        model_type=draw(st.sampled_from([0, 0, 0, 1, 2, 7])),
    )
    match draw(st.sampled_from(["", "", "latest", "all", "specific", "labels", "logging", "custom"])):
        case "latest":
            entry.model_version_policy.latest.num_versions = draw(st.integers(0, 2**32 - 1))
        case "all":
            entry.model_version_policy.all.SetInParent()
        case "specific":
            entry.model_version_policy.specific.versions.extend(draw(st.lists(_INT64, max_size=3)))
        case "labels":
            entry.version_labels[draw(_TEXTS)] = draw(_INT64)
        case "logging":
            entry.logging_config.SetInParent()
        case "custom":
            config.custom_model_config.type_url = draw(_TEXTS)
    return config


@st.composite
def reloads(draw: st.DrawFn, kept: Any) -> Case:
    """Draw a reload that must be refused: its config holds a model that isn't there, or isn't one."""
    request = model_management_pb2.ReloadConfigRequest(config=draw(configs(kept)))
    request.metric_names.extend(draw(st.lists(_TEXTS, max_size=2)))
    return Case("reload", _RELOAD, request.SerializeToString())


def _frame(kind: int, flags: int, stream: int, payload: bytes, length: int | None = None) -> bytes:
    size = len(payload) if length is None else length
    return struct.pack(">I", size)[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _header(name: str, value: str) -> bytes:
    """Return a header by HPACK's plainest form (RFC 7541, 6.2.2), for texts of less than 127 bytes."""
    return bytes([0, len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


_CALL = b"".join(
    _header(*each)
    for each in (
        *(
            (":method", "POST"),
            (":scheme", "http"),
            (":path", PREDICT),
            (":authority", "x"),
            ("te", "trailers"),
        ),
        *(("content-type", "application/grpc"), ("grpc-encoding", "gzip"), ("grpc-timeout", "5S")),
    )
)
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# gRPC's own frame around a message: compressed or not, its length, and then not always that.
_MESSAGES = st.sampled_from(
    [
        *(
            b"",
            b"\0\0\0\0\0",
            b"\1\0\0\0\0",
            b"\0\xff\xff\xff\xff",
            b"\1\xff\xff\xff\xffx",
            b"\0\0\0\0\5abc",
            b"\2\0\0\0\1a",
        ),
        *(b"\1\0\0\0\4\x1f\x8b\x08\0", b"\0\0\0\0\1a" * 3),
    ]
)


@st.composite
def frames(draw: st.DrawFn) -> Case:
    """Draw bytes for the gRPC port that aren't gRPC, or HTTP/2 that goes wrong after a while."""
    start = draw(
        st.sampled_from(
            [_PREFACE] * 6 + [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"]
        )
    )
    parts = [
        start,
        _frame(4, 0, 0, draw(st.sampled_from([b"", b"\0\4\xff\xff\xff\xff", b"\0\5\0\0\0\0", b"\0\1\0"]))),
    ]
    for number in range(draw(st.integers(0, 3))):
        stream = draw(st.sampled_from([2 * number + 1] * 4 + [0, 2, 2**31 - 1]))
        if draw(st.booleans()):
            parts += [
                _frame(1, 4, stream, _CALL),
                _frame(0, draw(st.sampled_from([0, 1])), stream, draw(_MESSAGES)),
            ]
        else:
            length = draw(st.none() | st.sampled_from([0, 2**14, 2**24 - 1]))
            kind, flags = draw(st.integers(0, 12)), draw(st.integers(0, 255))
            parts.append(_frame(kind, flags, stream, draw(st.binary(max_size=40)), length))
    return Case("frames", GRPC, draw(mutated(st.just(b"".join(parts)))))
