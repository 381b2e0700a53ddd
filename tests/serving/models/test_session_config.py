"""What flags tell TensorFlow: threads, a session's settings, which graph of a SavedModel, how often it is warmed up."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving_fixtures import ROW, tiny_models
from tfship.export.runtimes.saved_model import SavedModel
from tfship.serving.models.loader import Loader
from tfship.serving.models.session_config import session_config
from tfship.serving.protos.messages import config_pb2, saved_model_pb2
from tfship.serving.server import flag_settings, flags
from tfship.serving.server.settings import cores
from tfship.train.common.errors import ArtifactError, UsageError


def _threads(*argv: str) -> tuple[int, int, int]:
    """Return TensorFlow's threads within and between operators, and LiteRT's."""
    loader = flag_settings.settings(flags.parse(["--workers=0", *argv])).loader
    config = config_pb2.ConfigProto.FromString(loader.session_config)
    return config.intra_op_parallelism_threads, config.inter_op_parallelism_threads, loader.threads


@pytest.mark.parametrize(
    ("argv", "threads"),
    [
        ([], (0, 0, 1)),
        (["--tensorflow_session_parallelism=3"], (3, 3, 3)),
        (["--tensorflow_intra_op_parallelism=3"], (3, 0, 3)),
        (["--tensorflow_inter_op_parallelism=3"], (0, 3, 1)),
        (["--tensorflow_inter_op_parallelism=3", "--tensorflow_intra_op_parallelism=2"], (2, 3, 2)),
        # As TensorFlow Serving: who sets one of the two, sets both.
        (["--tensorflow_inter_op_parallelism=3", "--tensorflow_session_parallelism=2"], (0, 3, 2)),
        # A worker has its share of the cores, and at least one.
        (["--workers=1"], (cores(), cores(), 1)),
        (["--workers=1000"], (1, 1, 1)),
        (["--workers=1000", "--tensorflow_intra_op_parallelism=3"], (3, 1, 3)),
    ],
)
def test_threads(argv: list[str], threads: tuple[int, int, int]) -> None:
    assert _threads(*argv) == threads


def test_all_three_are_too_many() -> None:
    argv = [f"--tensorflow_{name}_parallelism=1" for name in ("session", "intra_op", "inter_op")]
    with pytest.raises(UsageError, match="are all set; expected only the first, or only the other two"):
        _threads(*argv)


def test_a_session_has_the_files_settings_but_for_what_flags_say(tmp_path: Path) -> None:
    file = tmp_path / "session.config"
    file.write_text(
        'inter_op_parallelism_threads: 5 intra_op_parallelism_threads: 6 device_count { key: "CPU" value: 3 }'
    )
    argv = (f"--tensorflow_session_config_file={file}", "--workers=2", "--tensorflow_intra_op_parallelism=1")
    assert _threads(*argv) == (1, 5, 1)
    runtime = SavedModel(tiny_models() / "double" / "1", config=session_config(file, gpu_fraction=0.5))
    assert [each.name[-5:] for each in runtime._session.list_devices()] == ["CPU:0", "CPU:1", "CPU:2"]
    np.testing.assert_array_equal(runtime.run("serving_default", {"x": ROW})["y"], 2 * ROW)
    runtime.close()


@pytest.mark.parametrize(
    ("text", "message"), [("nonsense: 1", "not a TensorFlow ConfigProto"), (None, "No such file")]
)
def test_a_session_file_of_no_use(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "session.config"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UsageError, match=f"^--tensorflow_session_config_file: {file}: {message}"):
        session_config(file)


def _with_another_graph(folder: Path) -> Path:
    """Copy a model and give it a second graph, tagged serve and special, whose signature is called `other`."""
    model = saved_model_pb2.SavedModel.FromString(
        (tiny_models() / "double" / "1" / "saved_model.pb").read_bytes()
    )
    other = model.meta_graphs.add()
    other.CopyFrom(model.meta_graphs[0])
    other.meta_info_def.tags[:] = ["special", "serve"]
    other.signature_def["other"].CopyFrom(other.signature_def["serving_default"])
    del other.signature_def["serving_default"]
    (folder / "saved_model.pb").write_bytes(model.SerializeToString())
    (folder / "variables").symlink_to(tiny_models() / "double" / "1" / "variables")
    return folder


def test_tags_choose_a_graph(tmp_path: Path) -> None:
    path = _with_another_graph(tmp_path)

    def loaded(*argv: str) -> Any:
        return flag_settings.settings(flags.parse([*argv, "--workers=0"])).loader.load(path).runtime

    assert "serving_default" in loaded().signatures
    assert "serving_default" in loaded("--saved_model_tags=serve").signatures
    for tags in ("serve,special", "special,serve"):
        runtime = loaded(f"--saved_model_tags={tags}")
        assert "serving_default" not in runtime.signatures
        np.testing.assert_array_equal(runtime.run("other", {"x": ROW})["y"], 2 * ROW)


def test_tags_that_are_not_there_are_told_from_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as refused:
        Loader(tags=("special",)).load(_with_another_graph(tmp_path))
    assert str(refused.value) == (
        f"{tmp_path}/saved_model.pb: Could not find meta graph def matching supplied tags: {{ special }}; "
        "found { serve }, { special, serve }; choose them with --saved_model_tags"
    )


@pytest.mark.parametrize(
    "argv", [["--saved_model_tags="], ["--saved_model_tags=a,,b"], ["--per_process_gpu_memory_fraction=2"]]
)
def test_values_of_no_use(argv: list[str]) -> None:
    with pytest.raises(SystemExit):
        flags.parse(argv)


def test_warm_up_runs_as_often_as_asked() -> None:
    for argv, times in (([], 1), (["--num_request_iterations_for_warmup=3"], 3)):
        assert flag_settings.settings(flags.parse(argv)).loader.warmup_iterations == times
