"""Configuration files in protobuf's text format."""

import contextlib
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfship.serving.protos import config_messages
from tfship.serving.protos.messages import model_server_config_pb2
from tfship.train.common.errors import UsageError

BATCHING = """
# As TensorFlow Serving's guide writes it.
max_batch_size { value: 128 }
batch_timeout_micros { value: 0 }
max_enqueued_batches { value: 1000000 }
num_batch_threads { value: 8 }
thread_pool_name { value: "pool" }
allowed_batch_sizes: 64
allowed_batch_sizes: 128
pad_variable_length_inputs: true
enable_large_batch_splitting { value: true }
max_execution_batch_size { value: 128 }
"""
KINDS = [
    config_messages.BatchingParameters,
    config_messages.SSLConfig,
    config_messages.MonitoringConfig,
    model_server_config_pb2.ModelServerConfig,
]


def test_the_messages_have_tensorflow_servings_fields() -> None:
    batching = config_messages.parse(BATCHING, config_messages.BatchingParameters, "test")
    assert batching.max_batch_size.value == 128
    # What is given as its type's default is not what isn't given.
    assert batching.HasField("batch_timeout_micros")
    assert list(batching.allowed_batch_sizes) == [64, 128]
    assert batching.thread_pool_name.value == "pool"
    assert batching.enable_large_batch_splitting.value is True
    assert not config_messages.parse("", config_messages.BatchingParameters, "test").HasField(
        "max_batch_size"
    )

    text = 'server_key: "k" server_cert: "c" custom_ca: "a" client_verify: true'
    tls = config_messages.parse(text, config_messages.SSLConfig, "test")
    assert (tls.server_key, tls.server_cert, tls.custom_ca, tls.client_verify) == ("k", "c", "a", True)

    text = 'prometheus_config { enable: true path: "/metrics" }'
    monitoring = config_messages.parse(text, config_messages.MonitoringConfig, "test").prometheus_config
    assert (monitoring.enable, monitoring.path) == (True, "/metrics")


def test_any_messages_are_found_where_the_others_are() -> None:
    text = "custom_model_config { [type.googleapis.com/tensorflow.serving.ModelConfigList] { config { name: 'a' } } }"
    config = config_messages.parse(text, model_server_config_pb2.ModelServerConfig, "test")
    inside = model_server_config_pb2.ModelConfigList()
    assert config.custom_model_config.Unpack(inside)
    assert [each.name for each in inside.config] == ["a"]


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("max_batch_size { value: 1 }\nnonsense: 1", 2, 'no field named "nonsense"'),
        ("\n\nmax_batch_size: 128", 3, 'Expected "{"'),
        ("max_batch_size { value: x }", 1, "Couldn't parse integer: x"),
        ("max_batch_size {\n", 1, 'Expected "}"'),
        ("allowed_batch_sizes: 99999999999999999999", 1, "Value out of range"),
        ("max_batch_size { value: 1 }\nmax_batch_size { value: 1 }", 2, "should not have multiple"),
    ],
)
def test_errors_name_the_file_the_line_and_what_was_expected(
    tmp_path: Path, text: str, line: int, reason: str
) -> None:
    path = tmp_path / "batching.txt"
    path.write_text(text)
    with pytest.raises(UsageError) as refused:
        config_messages.read(path, config_messages.BatchingParameters, "--flag")
    message = str(refused.value)
    start = rf"--flag: {path}:{line}:[0-9]+: not a BatchingParameters in protobuf text format \("
    assert re.match(start, message)
    assert reason in message
    assert "expected max_batch_size { value: int64 }, " in message
    assert ", allowed_batch_sizes: int64, " in message
    assert "\n" not in message


def test_files_that_can_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="^--flag: .*none: No such file"):
        config_messages.read(tmp_path / "none", config_messages.SSLConfig, "--flag")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="^--flag: .*binary: not a text file"):
        config_messages.read(tmp_path / "binary", config_messages.SSLConfig, "--flag")


@given(
    kind=st.sampled_from(KINDS),
    text=st.text()
    | st.lists(
        st.sampled_from(
            ["max_batch_size", "{", "}", ":", "value", "1", '"', "[", "]", "path", "#", "\n", " "]
        )
    ).map("".join),
)
def test_any_text_is_read_or_refused(kind: Any, text: str) -> None:
    with contextlib.suppress(UsageError):
        assert isinstance(config_messages.parse(text, kind, "test"), kind)
