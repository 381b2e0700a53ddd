"""Answers that no model server gives: none of them makes the doctor stumble."""

import contextlib
import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doctor_fixtures import (
    captured,
    exported,
    http_server,
)
from tfship.client.doctor import load_errors
from tfship.client.doctor.findings import clean
from tfship.client.targets import model_info

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
_STATUS = st.fixed_dictionaries(
    {
        "model_version_status": st.lists(
            st.fixed_dictionaries(
                {
                    "version": st.integers().map(str) | _JSON,
                    "state": st.sampled_from(["AVAILABLE", "LOADING", "END"]) | _JSON,
                    "status": st.fixed_dictionaries({"error_code": _JSON, "error_message": st.text()})
                    | _JSON,
                }
            ),
            max_size=3,
        )
        | _JSON
    }
)
_TENSOR = st.fixed_dictionaries(
    {
        "dtype": st.just("DT_FLOAT") | _JSON,
        "tensor_shape": st.fixed_dictionaries(
            {
                "dim": st.lists(st.fixed_dictionaries({"size": st.integers().map(str) | _JSON}), max_size=3)
                | _JSON,
                "unknown_rank": st.booleans() | _JSON,
            }
        )
        | _JSON,
    }
)
_TENSORS = st.dictionaries(st.text(max_size=10), _TENSOR | _JSON, max_size=2) | _JSON
_SIGNATURE = st.fixed_dictionaries(
    {"inputs": _TENSORS, "outputs": _TENSORS, "method_name": st.text() | _JSON}
)
_METADATA = st.builds(
    lambda version, signatures: {
        "model_spec": {"version": version},
        "metadata": {"signature_def": {"signature_def": signatures}},
    },
    st.integers().map(str) | _JSON,
    st.dictionaries(st.just("serving_default") | st.text(max_size=5), _SIGNATURE | _JSON, max_size=2) | _JSON,
)
_BODIES = (_STATUS | _METADATA | _JSON).map(lambda value: json.dumps(value).encode()) | st.binary(
    max_size=200
)


@given(body=_BODIES)
def test_what_is_no_answer_is_a_value_error(body: bytes) -> None:
    """What is taken for an answer is one: complete, and of the right types."""
    for parse_versions in (model_info.versions_in_json, model_info.versions_in_proto):
        with contextlib.suppress(ValueError):
            versions = parse_versions(body)
            assert all(isinstance(each.number, int) for each in versions)
            assert all(
                isinstance(text, str) for each in versions for text in (each.state, each.code, each.message)
            )
    for parse_served in (model_info.served_in_json, model_info.served_in_proto):
        with contextlib.suppress(ValueError):
            served = parse_served(body)
            assert isinstance(served.version, int)
            for name, signature in served.signatures.items():
                assert isinstance(name, str)
                for tensor in (*signature.inputs.values(), *signature.outputs.values()):
                    assert isinstance(tensor.dtype, int)
                    assert tensor.shape is None or all(isinstance(size, int) for size in tensor.shape)


@pytest.fixture(scope="module")
def hostile() -> Iterator[tuple[str, dict[str, tuple[int, bytes]]]]:
    """A server that answers questions about versions and about metadata with what stands in a table."""
    table = {"versions": (200, b""), "metadata": (200, b"")}
    with http_server(lambda path: table["metadata" if path.endswith("metadata") else "versions"]) as server:
        yield server, table


@given(
    versions=st.tuples(
        st.sampled_from([200, 200, 404, 503, 400]),
        _STATUS.map(lambda each: json.dumps(each).encode()) | _BODIES,
    ),
    metadata=st.tuples(
        st.sampled_from([200, 200, 404, 400]), _METADATA.map(lambda each: json.dumps(each).encode()) | _BODIES
    ),
)
def test_no_answer_makes_it_stumble(
    hostile: tuple[str, dict[str, tuple[int, bytes]]],
    versions: tuple[int, bytes],
    metadata: tuple[int, bytes],
) -> None:
    server, table = hostile
    table["versions"], table["metadata"] = versions, metadata
    code, out, err = captured("--rest", server, "--models", exported(), "--timeout=5")
    assert code in (0, 6)
    assert err == ""
    for line in out.splitlines():
        assert line.split(" ")[0] in ("ok", "warning", "fault")
        assert line.isprintable()


@given(text=st.text())
def test_text_from_anywhere_is_one_line(text: str) -> None:
    line = clean(text, 50)
    assert line.isprintable()
    assert len(line) <= 50
    assert clean(line, 50) == line


@given(text=st.text())
def test_any_words_have_an_explanation(text: str) -> None:
    for line in (text, f"error: {text}", f"Could not find base path {text} for servable {{0}}"):
        assert load_errors.explain(line).remedy
    assert all(reason.meaning for _, reason in load_errors.in_log(text))
