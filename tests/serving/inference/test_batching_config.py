"""Batching parameters, and the flags that ask for them."""

from pathlib import Path

import pytest

from tfship.serving.inference.batching_config import BatchingParameters, read
from tfship.serving.models.loader import Loader
from tfship.serving.server import flag_settings, flags
from tfship.train.common.errors import UsageError


def parameters(tmp_path: Path, text: str) -> BatchingParameters:
    path = tmp_path / "batching.txt"
    path.write_text(text)
    return read(path, "--batching_parameters_file")


def test_what_is_not_set_is_as_in_tensorflow_serving(tmp_path: Path) -> None:
    assert parameters(tmp_path, "") == BatchingParameters()
    defaults = BatchingParameters()
    assert (defaults.max_batch_size, defaults.batch_timeout_micros, defaults.max_enqueued_batches) == (
        1000,
        0,
        10,
    )


def test_what_is_set(tmp_path: Path) -> None:
    text = """
        max_batch_size { value: 8 } batch_timeout_micros { value: 500 } max_enqueued_batches { value: 3 }
        num_batch_threads { value: 4 } thread_pool_name { value: "pool" } allowed_batch_sizes: [2, 4, 8]
        pad_variable_length_inputs: true
    """
    found = parameters(tmp_path, text)
    assert found == BatchingParameters(8, 500, 3, 4, "pool", (2, 4, 8), pad_variable_length_inputs=True)
    assert [found.padding(rows) for rows in (1, 2, 3, 5, 8)] == [1, 0, 1, 3, 0]
    assert BatchingParameters().padding(7) == 0


def test_only_a_server_that_splits_has_a_size_of_its_own_for_batches(tmp_path: Path) -> None:
    sizes = "max_batch_size { value: 8 } max_execution_batch_size { value: 2 }"
    split = "enable_large_batch_splitting { value: true }"
    assert parameters(tmp_path, sizes).rows_per_batch == 8
    assert parameters(tmp_path, f"{sizes} {split}").rows_per_batch == 2
    assert parameters(tmp_path, f"max_batch_size {{ value: 8 }} {split}").rows_per_batch == 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_batch_size { value: 0 }", "max_batch_size is 0; expected 1 or more"),
        ("batch_timeout_micros { value: -1 }", "batch_timeout_micros is -1; expected 0 or more"),
        ("max_enqueued_batches { value: 0 }", "max_enqueued_batches is 0; expected 1 or more"),
        ("num_batch_threads { value: 0 }", "num_batch_threads is 0; expected 1 or more"),
        (
            "enable_large_batch_splitting { value: true } max_execution_batch_size { value: 1001 }",
            "max_execution_batch_size is 1001; expected at most max_batch_size, 1000",
        ),
        (
            "allowed_batch_sizes: [4, 2, 1000]",
            r"are \[4, 2, 1000\]; expected positive sizes, each above the last",
        ),
        ("allowed_batch_sizes: [0, 1000]", "expected positive sizes"),
        (
            "max_batch_size { value: 16 } allowed_batch_sizes: [4, 8]",
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 8; expected 16",
        ),
    ],
)
def test_what_can_not_be_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=f"^--batching_parameters_file: .*batching.txt: .*{message}"):
        parameters(tmp_path, text)


def loader(*argv: str) -> Loader:
    return flag_settings.settings(flags.parser().parse_args(argv)).loader


def test_the_flags(tmp_path: Path) -> None:
    assert loader().batching is None
    # The names that metrics are told by.
    assert loader("--enable_batching").batching == BatchingParameters(
        thread_pool_name="model_server_batch_threads"
    )
    file = tmp_path / "batching.txt"
    file.write_text("max_batch_size { value: 7 }")
    found = loader("--enable_batching=true", f"--batching_parameters_file={file}")
    assert found.batching == BatchingParameters(7, thread_pool_name="batch_threads")
    assert not found.per_model_batching
    assert loader("--enable_batching", "--enable_per_model_batching_parameters").per_model_batching


@pytest.mark.parametrize("flag", ["batching_parameters_file=x", "enable_per_model_batching_parameters"])
def test_parameters_without_batching_are_refused(flag: str) -> None:
    with pytest.raises(UsageError, match=f"^--{flag.split('=')[0]} is set without --enable_batching"):
        loader(f"--{flag}")
    with pytest.raises(UsageError, match="without --enable_batching"):
        loader(f"--{flag}", "--enable_batching=false")
