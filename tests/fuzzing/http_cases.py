"""What a REST client may send: bodies that are nearly right, and HTTP that isn't."""

import gzip
import json
import math
from collections.abc import Sequence

from hypothesis import strategies as st

from fuzzing.cases import REST, Case, Served, mutated
from tfship.serving.protos.tensors import dtype_of

__all__ = ["ANY_JSON", "http", "json_bodies", "json_requests", "post"]

# JSON, as text: what a parser must get right, and some of what it must refuse.
_NUMBERS = st.sampled_from(
    [
        "0",
        "-0",
        "1",
        "-1",
        "0.5",
        "1e2",
        "1E+2",
        "1e-400",
        "1e400",
        "-1e400",
        "1e999999999",
        "127",
        "128",
        "255",
        "256",
        "-129",
        "65536",
        "2147483647",
        "2147483648",
        "-2147483649",
        "9223372036854775807",
        "9223372036854775808",
        "-9223372036854775809",
        "18446744073709551615",
        "18446744073709551616",
        "3.4028236e38",
        "0.30000000000000004",
        "NaN",
        "Infinity",
        "-Infinity",
        "nan",
        "01",
        "1.",
        ".5",
        "+1",
        "0x10",
        "1_0",
        "-",
        "1e",
        "1e+",
    ]
) | st.sampled_from(["1" * 400, "1" * 5000, "-" + "9" * 5000, "0." + "1" * 5000, "1e" + "1" * 5000, "\uff11"])
_TEXTS = st.sampled_from(
    [
        *(
            '""',
            '"a"',
            '"\\u0000"',
            '"\\ud800"',
            '"\\udc00\\ud800"',
            '"\\ud83d\\ude00"',
            '"ä€"',
            '"\x00"',
            '"\\x"',
        ),
        *('"\\u12"', '"', '"a\nb"', "'a'", f'"{"x" * 1000}"', '"NaN"', '"__proto__"', '"%s%n"'),
    ]
)
_BASE64 = st.sampled_from(
    ["", "YQ==", "YQ", "/w==", "=", "====", "Y", "Y Q", "YQ==YQ==", "\u00e4", "_w"]
).map(lambda text: json.dumps({"b64": text}, ensure_ascii=False))
_OTHERS = st.sampled_from(
    ["null", "true", "false", "True", "[]", "{}", '{"b64": 1}', '{"b64": "", "a": 1}', ""]
)
_NAMES = [
    "x",
    "s",
    "a",
    "b",
    "n",
    "image",
    "inputs",
    "b64",
    "image/encoded",
    "signature_name",
    "",
    "\\ud800",
    "y",
]
_SPACES = st.sampled_from([""] * 12 + [" ", "\n\t\r ", "\u00a0", "\ufeff", "/**/", ","])


def _object(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    # Names may stand twice.
    members = st.lists(st.tuples(st.sampled_from(_NAMES), inner), max_size=4)
    return members.map(lambda pairs: "{" + ",".join(f'"{name}": {value}' for name, value in pairs) + "}")


def _array(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(inner, max_size=4).map(lambda values: "[" + ",".join(values) + "]")


def _deep(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds(
        lambda value, count, close: "[" * count + value + "]" * (count * close),
        *(inner, st.sampled_from([1, 2, 63, 64, 65, 255, 1000, 100_000]), st.booleans()),
    )


def _wide(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds(
        lambda value, size: "[" + ",".join([value] * max(1, size // (len(value) + 1))) + "]",
        *(inner, st.sampled_from([10, 1000, 100_000])),
    )


_LEAVES = _NUMBERS | _NUMBERS | _TEXTS | _BASE64 | _OTHERS
ANY_JSON = (
    st.recursive(_LEAVES, lambda inner: _array(inner) | _object(inner), max_leaves=8)
    | _deep(_LEAVES)
    | _wide(_LEAVES)
)


@st.composite
def _tensor(draw: st.DrawFn, dtype: int, shape: tuple[int, ...] | None) -> str:
    """Draw a value that fits an input, most of the time, with a few odd elements."""
    known = dtype_of(dtype)
    if known is None or known.is_string:
        good = st.sampled_from(['""', '"a"', '"\u00e4"', '{"b64": "/w=="}'])
        leaf = draw(good | good | good | _TEXTS | _BASE64)
    elif known.name == "bool":
        leaf = draw(st.sampled_from(["true", "false"]))
    else:
        good = st.sampled_from(["0", "1", "7"] if known.numpy.kind in "iu" else ["0", "1", "0.5"])
        leaf = draw(good | good | good | _NUMBERS)
    sizes = [draw(st.sampled_from([1, 1, 2, 3, 0])) if size < 0 else size for size in shape or ()]
    if not draw(st.integers(0, 11)):
        sizes = draw(st.lists(st.integers(0, 5), max_size=5))
    if len(leaf) * math.prod(sizes) > 100_000:
        leaf = "1"
    text = leaf
    for size in reversed(sizes):
        text = "[" + ",".join([text] * min(size, 1000)) + "]"
    if not draw(st.integers(0, 11)):
        text = text.replace(leaf, draw(ANY_JSON), 1)
    return text


@st.composite
def json_bodies(draw: st.DrawFn, served: Served, verb: str) -> bytes:
    """Draw the body of a call, right or wrong."""
    if verb == "predict":
        text = draw(_predict(served))
    else:
        good = st.sampled_from(['{"x": 0.5}', '{"x": [1.5]}', '{"x": -0.0, "y": ["a", "b"]}'])
        example = good | good | good | _object(_NUMBERS | _TEXTS | _BASE64 | _array(_NUMBERS | _TEXTS))
        examples = draw(st.lists(example, min_size=1, max_size=3).map(",".join))
        text = f'"examples": [{examples}]' if draw(st.integers(0, 9)) else f'"examples": {draw(ANY_JSON)}'
        if not draw(st.integers(0, 3)):
            text = f'"context": {draw(example | ANY_JSON)}, {text}'
    name = draw(
        st.sampled_from(
            [json.dumps(served.signature)] * 15 + ['""', '"no"', '"\\ud800"', "1", '"ser\\u0076e"']
        )
    )
    parts = [f'"signature_name": {name}', text]
    if draw(st.booleans()):
        parts.reverse()
    text = draw(_SPACES) + "{" + ", ".join(parts) + "}" + draw(_SPACES)
    encoding = draw(st.sampled_from(["utf-8"] * 30 + ["utf-8-sig", "utf-16", "utf-32", "latin-1"]))
    return text.encode(encoding, "replace")


@st.composite
def _predict(draw: st.DrawFn, served: Served) -> str:
    values = {name: draw(_tensor(*each)) for name, each in served.inputs.items()}
    named = "{" + ", ".join(f"{json.dumps(name)}: {value}" for name, value in values.items()) + "}"
    plain = next(iter(values.values()), "[]")
    match draw(
        st.sampled_from(
            ["plain" if len(values) == 1 else "rows"] * 10
            + ["columns"] * 3
            + ["plain", "rows", "any", "both"]
        )
    ):
        case "plain":
            return f'"{draw(st.sampled_from(["instances", "inputs"]))}": {plain}'
        case "columns":
            return f'"inputs": {named}'
        case "rows":
            return f'"instances": [{named}, {named}]'
        case "both":
            return f'"instances": {plain}, "inputs": {named}'
    return f'"{draw(st.sampled_from(["instances", "inputs", "x"]))}": {draw(ANY_JSON)}'


def post(path: str, body: bytes, *headers: str) -> bytes:
    """Return a POST that is good HTTP, whatever its body."""
    head = [f"POST {path} HTTP/1.1", "Host: x", "Connection: close", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


@st.composite
def json_requests(draw: st.DrawFn, served: Sequence[Served]) -> Case:
    """Draw a POST that is good HTTP; its body is what may be wrong."""
    one = draw(st.sampled_from(served))
    verbs = (
        ["predict", "classify", "regress"]
        if one.inputs.keys() == {"inputs"}
        else ["predict"] * 10 + ["classify", "regress"]
    )
    verb = draw(st.sampled_from(verbs))
    body = draw(mutated(json_bodies(one, verb)))
    headers: tuple[str, ...] = ()
    if not draw(st.integers(0, 11)):
        body = draw(mutated(st.just(gzip.compress(body, 1, mtime=0))))
        headers = ("Content-Encoding: gzip",)
    if not draw(st.integers(0, 11)):
        headers += ("Accept-Encoding: gzip",)
    return Case("json", REST, post(f"/v1/models/{one.model}:{verb}", body, *headers))


_METHODS = [
    *["POST", "GET"] * 20,
    "HEAD",
    "PUT",
    "OPTIONS",
    "TRACE",
    "CONNECT",
    "PRI",
    "get",
    "G\u00c4T",
    "X" * 300,
    "",
]
_VERSIONS = [
    *["HTTP/1.1"] * 12,
    "HTTP/1.0",
    "HTTP/0.9",
    "HTTP/2.0",
    "HTTP/1.10",
    "HTTP/",
    "ICE/1.0",
    "",
    "HTTP/1.1 x",
]
_HEADERS = [
    *("Connection: keep-alive", "Connection: Upgrade, close", "Upgrade: h2c", "Upgrade: websocket", "Expect: 100-continue"),
    *("Expect: x", "Content-Encoding: gzip", "Content-Encoding: br", "Accept-Encoding: gzip", "Origin: http://a"),
    *("Content-Length: 5", "Content-Length: -1", "Content-Length: +5", "Content-Length: 99999999999999999999"),
    *("Content-Length: 268435457", "Content-Length: 0x5", "Content-Length: 5, 5", "Content-Length : 5", "Content-Length:"),
    *("Transfer-Encoding: chunked", "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: identity", "X: \x00"),
    *("Transfer-Encoding: chunked, x", "Transfer-Encoding: xchunked", " folded: 1", "\tfolded", ": empty", "no colon"),
    *("X: \u00e4", "\u00e4: x", "X: " + "a" * 9000, "X" * 9000 + ": a", "X: " + "a" * 300_000, "X: a\rb", "Host: y", "X:"),
]  # fmt: skip
_TAILS = [
    "",
    "",
    "",
    ":predict",
    ":classify",
    ":regress",
    ":x",
    "/metadata",
    "/versions/1",
    "/versions/99",
    "/labels/a",
]
_PIECES = [
    *("/", "/v1/models", "/v1/models/", "/V1/MODELS/", "/v1/models/../..", "//", "/%2e%2e%2f", "/%00", "/%", "/%zz", "/%ff"),
    *("/versions/" + "9" * 30, "/versions/" + "9" * 5000, "/versions/\u0661", "/versions/-1", "/labels/%ff", "/labels/"),
    *("?", "?a=b", "#", "#a", ":", ":predict", "http://a", "*", "\u00e4", "\\", ";", " ", "x" * 9000, "/monitoring"),
]  # fmt: skip


@st.composite
def _path(draw: st.DrawFn, served: Sequence[Served]) -> str:
    if draw(st.booleans()):
        return f"/v1/models/{draw(st.sampled_from(served)).model}{draw(st.sampled_from(_TAILS))}"
    pieces = st.sampled_from(_PIECES) | st.text(max_size=3) | st.sampled_from(_TAILS)
    return "/v1/models/" * draw(st.booleans()) + "".join(draw(st.lists(pieces, max_size=4)))


@st.composite
def _chunked(draw: st.DrawFn, body: bytes) -> bytes:
    size = draw(
        st.sampled_from(
            ["{:x}"] * 4 + ["0{:X}", "-1", "", "{:x};a=b", "ffffffffffffffff", "fffffffffffffffff", "g"]
        )
    )
    at = draw(st.integers(0, len(body)))
    chunks = [each for each in (body[:at], body[at:]) if each]
    end = draw(
        st.sampled_from(
            ["0\r\n\r\n"] * 4 + ["", "0\r\n", "0\r\nX: y\r\n\r\n", "0;" + "a" * 9000 + "\r\n\r\n"]
        )
    )
    return (
        b"".join(size.format(len(each)).encode() + b"\r\n" + each + b"\r\n" for each in chunks) + end.encode()
    )


@st.composite
def _message(draw: st.DrawFn, served: Sequence[Served]) -> bytes:
    """Draw one HTTP request, nearly always with something wrong."""
    method, version = draw(st.sampled_from(_METHODS)), draw(st.sampled_from(_VERSIONS))
    lines = [f"{method} {draw(_path(served))} {version}", "Host: x"]
    body = b""
    if method not in ("GET", "HEAD") or not draw(st.integers(0, 5)):
        body = draw(json_bodies(draw(st.sampled_from(served)), "predict"))[:5000]
        match draw(st.sampled_from(["length"] * 4 + ["chunked", "chunked", "none", "wrong"])):
            case "length":
                lines.append(f"Content-Length: {len(body)}")
            case "chunked":
                lines.append("Transfer-Encoding: chunked")
                body = draw(_chunked(body))
            case "wrong":
                lines.append(f"Content-Length: {max(0, len(body) + draw(st.integers(-3, 3)))}")
    for header in draw(st.lists(st.sampled_from(_HEADERS), max_size=2)):
        lines.insert(draw(st.integers(1, len(lines))), header)
    end = draw(st.sampled_from(["\r\n"] * 12 + ["\n", "\r", "\r\r\n"]))
    return end.join([*lines, "", ""]).encode("utf-8", "surrogatepass") + body


@st.composite
def http(draw: st.DrawFn, served: Sequence[Served]) -> Case:
    """Draw what a client that doesn't know HTTP sends, one request or several, whole or not, in pieces."""
    data = b"".join(draw(st.lists(_message(served), min_size=1, max_size=3)))
    data = draw(
        mutated(st.just(data))
        | st.just(data * draw(st.sampled_from([1, 1, 1, 50 if len(data) < 10_000 else 2])))
    )
    cuts = draw(st.lists(st.integers(0, len(data)), max_size=3))
    return Case("http", REST, data, tuple(sorted(cuts)))
