"""Versions that come, go and break while the server runs. TFLite files, since they load in no time."""

import functools
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from serving_fixtures import (
    ROW,
    TFLITE,
    Client,
    config_of,
    eventually,
    publish,
    serving,
    tflite_times,
    tiny_models,
    withdraw,
)
from serving_fixtures import asked as _asked
from serving_fixtures import factor as _factor
from tfship.serving.inference.execution import Loaded
from tfship.serving.models import manager as models
from tfship.serving.models.loader import Loader
from tfship.serving.models.manager import LoadPolicy, ModelManager
from tfship.serving.models.registry import Servables
from tfship.serving.models.snapshot import State, VersionStatus
from tfship.serving.protos.messages import model_pb2
from tfship.serving.server.model_server import Settings
from tfship.train.common.errors import ArtifactError

SETTINGS = Settings(loader=TFLITE)


def test_a_new_version_replaces_the_old_without_a_failed_request(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    tflite_times(2)
    with serving(config_of(m=tmp_path), SETTINGS) as client, _asked(client) as seen:
        publish(tmp_path, 2)
        eventually(lambda: client.states("m") == {"2": "AVAILABLE", "1": "END"})
        after = len(seen)
        eventually(lambda: len(seen) > after + 5)
        assert client.rest("/v1/models/m/versions/1:predict", {"instances": [[1, 0]]})[0] == 404
    assert seen == sorted(seen)  # once the new one answered, the old one never did again
    assert set(seen) == {1.0, 2.0}


def test_versions_disappear_and_come_back(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    publish(tmp_path, 2)
    with serving(config_of(m=tmp_path), SETTINGS) as client:
        assert client.states("m") == {"2": "AVAILABLE"}
        withdraw(tmp_path, 2)
        eventually(lambda: client.states("m") == {"2": "END", "1": "AVAILABLE"})
        assert _factor(client) == 1.0
        withdraw(tmp_path, 1)
        eventually(lambda: client.states("m") == {"2": "END", "1": "END"})
        status, answer = client.rest("/v1/models/m:predict", {"instances": [[1, 0]]})
        assert (status, answer["error"]) == (404, "Servable not found for request: Latest(m)")
        publish(tmp_path, 2)
        eventually(lambda: client.states("m")["2"] == "AVAILABLE")
        assert _factor(client) == 2.0


@pytest.mark.parametrize("retries", [0, 1])
def test_a_broken_version_leaves_the_old_one_serving(tmp_path: Path, retries: int) -> None:
    publish(tmp_path, 1)
    loading = LoadPolicy(poll_seconds=0.05, retries=retries, retry_seconds=0.1)
    with serving(config_of(m=tmp_path), SETTINGS, loading) as client:
        publish(tmp_path, 2, b"no model at all")
        eventually(lambda: client.states("m") == {"2": "END", "1": "AVAILABLE"})
        _, answer = client.rest("/v1/models/m/versions/2")
        status = answer["model_version_status"][0]["status"]
        assert status["error_code"] == "UNKNOWN"
        assert "LiteRT can't load it" in status["error_message"]
        assert _factor(client) == 1.0
        time.sleep(0.2)
        assert client.states("m") == {"2": "END", "1": "AVAILABLE"}  # given up: not tried for ever
        withdraw(tmp_path, 2)
        time.sleep(0.2)
        publish(tmp_path, 2)
        eventually(lambda: client.states("m") == {"2": "AVAILABLE", "1": "END"})


def test_a_version_that_is_still_being_copied_is_tried_again(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    whole = tflite_times(2)
    with serving(
        config_of(m=tmp_path), SETTINGS, LoadPolicy(poll_seconds=0.05, retries=50, retry_seconds=0)
    ) as client:
        publish(tmp_path, 2, whole[: len(whole) // 2])
        eventually(lambda: client.states("m") == {"2": "LOADING", "1": "AVAILABLE"})
        (tmp_path / "2" / "model.tflite").write_bytes(whole)
        eventually(lambda: client.states("m") == {"2": "AVAILABLE", "1": "END"})


def test_what_is_no_version_is_left_alone(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    for name in (".stage-7-3", "3.tmp", "-4", "latest", "1e3"):
        (tmp_path / name).mkdir()
    (tmp_path / "5").write_text("a file")
    with serving(config_of(m=tmp_path), SETTINGS) as client:
        time.sleep(0.2)
        assert client.states("m") == {"1": "AVAILABLE"}


def test_a_vanished_base_path_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    publish(tmp_path / "m", 1)
    with serving(config_of(m=tmp_path / "m"), SETTINGS) as client:
        (tmp_path / "m").rename(tmp_path / "gone")
        time.sleep(0.3)
        assert _factor(client) == 1.0
    assert caplog.text.count("can't be read") == 1  # one line, not one per look


def test_a_version_is_unloaded_only_when_its_last_request_has_ended(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    servables = Servables(TFLITE)
    manager = ModelManager(config_of(m=tmp_path), servables, LoadPolicy(poll_seconds=0.05))
    try:
        manager.start()
        with servables.use(model_pb2.ModelSpec(name="m")) as servable:
            publish(tmp_path, 2)
            eventually(
                lambda: [each.state for each in servables.status("m")] == [State.AVAILABLE, State.UNLOADING]
            )
            outputs = servable.loaded.runtime.run("serving_default", {"x": ROW})
            np.testing.assert_array_equal(outputs["y"], ROW)
        eventually(lambda: servables.status("m", 1)[0].state is State.END)
    finally:
        manager.stop()
        manager.join()
        servables.close(5)


def test_a_version_that_waits_for_its_last_request_holds_up_nothing_where_it_has_a_thread(
    tmp_path: Path,
) -> None:
    publish(tmp_path / "a", 1)
    publish(tmp_path / "b", 1)
    servables = Servables(TFLITE)
    config = config_of(a=tmp_path / "a", b=tmp_path / "b")
    manager = ModelManager(config, servables, LoadPolicy(poll_seconds=0.05, unload_threads=1))
    try:
        manager.start()
        with servables.use(model_pb2.ModelSpec(name="a")):
            publish(tmp_path / "a", 2)
            eventually(lambda: servables.status("a", 1)[0].state is State.UNLOADING)
            publish(tmp_path / "b", 2)
            eventually(
                lambda: [each.state for each in servables.status("b")] == [State.AVAILABLE, State.UNLOADING]
            )
            assert servables.status("a", 1)[0].state is State.UNLOADING
        eventually(lambda: {servables.status(name, 1)[0].state for name in "ab"} == {State.END})
    finally:
        manager.stop()
        manager.join()
        servables.close(5)


@dataclass(frozen=True)
class _Together(Loader):
    """Loads a version when another is being loaded at the same time, and not before."""

    prefer_tflite: bool = True
    both: ClassVar[threading.Barrier] = threading.Barrier(2)

    def load(self, path: Path) -> Loaded:
        self.both.wait()
        return super().load(path)


def test_models_are_loaded_at_the_same_time(tmp_path: Path) -> None:
    publish(tmp_path / "a", 1)
    publish(tmp_path / "b", 1)
    loading = LoadPolicy(poll_seconds=0.05, first_load_threads=2, load_threads=2)
    with serving(
        config_of(a=tmp_path / "a", b=tmp_path / "b"), Settings(loader=_Together()), loading
    ) as client:
        assert _factor(client, "a") == _factor(client, "b") == 1.0
        # Where one look finds one of them and the next the other, each finds the other loading all the same.
        publish(tmp_path / "a", 2)
        publish(tmp_path / "b", 2)
        eventually(lambda: _factor(client, "a") == _factor(client, "b") == 2.0)


def test_saved_models_are_swapped_as_well(tmp_path: Path) -> None:
    source = tiny_models() / "double" / "1"
    (tmp_path / "1").symlink_to(source)
    with serving(config_of(m=tmp_path)) as client:
        (tmp_path / "2").symlink_to(source)
        eventually(lambda: client.states("m") == {"2": "AVAILABLE", "1": "END"})
        assert _factor(client) == 2.0
        (tmp_path / "3").mkdir()
        (tmp_path / "3" / "saved_model.pb").write_bytes(b"\xff" * 100)
        eventually(lambda: "Read less bytes" in str(client.rest("/v1/models/m/versions/3")))
        assert _factor(client) == 2.0


def test_a_tflite_file_needs_the_flag(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    with pytest.raises(ArtifactError, match="--prefer_tflite_model"), serving(config_of(m=tmp_path)):
        pass


def test_tflite_takes_only_the_shapes_of_its_signature(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    with serving(config_of(m=tmp_path), SETTINGS) as client:
        for batch in (1, 3, 2):
            rows = np.arange(2 * batch, dtype=np.float32).reshape(batch, 2)
            np.testing.assert_array_equal(client.predict("m", x=rows)["y"], rows)
        status, answer = client.rest("/v1/models/m:predict", {"instances": [1.0, 2.0]})
        assert (status, "its signature expects [-1, 2]" in answer["error"]) == (400, True)
        assert _factor(client) == 1.0


def _is_ended(client: Client, version: int) -> bool:
    return client.states("m").get(str(version)) == "END"


def _is_newest(servables: Servables, version: int) -> bool:
    return servables.status("m")[0] == VersionStatus(version, State.AVAILABLE)


def test_only_so_many_ended_versions_are_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_MOST_ENDED", 2)
    publish(tmp_path, 1)
    with serving(config_of(m=tmp_path), SETTINGS) as client:
        for version in range(2, 7):
            publish(tmp_path, version, tflite_times(1))
            eventually(functools.partial(_is_ended, client, version - 1))
        assert client.states("m") == {"6": "AVAILABLE", "5": "END", "4": "END", "3": "END"}


class _OutOfMemoryOnce(Servables):
    def unload(self, key: int) -> None:
        super().unload(key)
        if key == 1:
            raise MemoryError("no memory")


def test_the_disk_is_looked_at_again_whatever_happened(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish(tmp_path, 1)
    servables = _OutOfMemoryOnce(TFLITE)
    manager = ModelManager(config_of(m=tmp_path), servables, LoadPolicy(poll_seconds=0.05))
    try:
        manager.start()
        for version in (2, 3):
            publish(tmp_path, version)
            eventually(functools.partial(_is_newest, servables, version))
    finally:
        manager.stop()
        manager.join()
        servables.close(5)
    assert "MemoryError: no memory" in caplog.text
