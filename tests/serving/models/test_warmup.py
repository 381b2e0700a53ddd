"""A version's own warm-up requests, run before it is available."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from serving_fixtures import ROW, Client, config_of, publish, serving, tiny_models
from tfship.export.preprocessing.input_contract import WARMUP
from tfship.export.publishing import store
from tfship.serving.inference.execution import Loaded
from tfship.serving.models import warmup
from tfship.serving.models.loader import Loader
from tfship.serving.server.model_server import Settings
from tfship.train.common.errors import ArtifactError

Requests = Mapping[str, Mapping[str, NDArray[Any]]]


class Spy:
    """A model's runtime, and what it was asked."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self.asked: list[str] = []

    @property
    def signatures(self) -> Any:
        return self._runtime.signatures

    def run(self, signature: str, inputs: Mapping[str, NDArray[Any]]) -> Any:
        self.asked.append(signature)
        return self._runtime.run(signature, inputs)

    def close(self) -> None:
        self._runtime.close()


def version(folder: Path, model: str, requests: Requests) -> Path:
    """Copy a tiny model and give it warm-up requests, written by TensorFlow as TensorFlow Serving's guide says."""
    from tfship.export.publishing.warmup_requests import write

    path = folder / model / "1"
    shutil.copytree(tiny_models() / model / "1", path)
    write(path, model, requests.items())
    return path


def replayed(path: Path, *, skip_unfit: bool = False, prefer_tflite: bool = False) -> list[str]:
    loaded = Loader(prefer_tflite, warmup=False).load(path)
    spy = Spy(loaded.runtime)
    try:
        assert warmup.replay(path, Loaded(spy, loaded.any_shape), skip_unfit=skip_unfit) == len(spy.asked)
    finally:
        spy.close()
    return spy.asked


def example(value: float) -> bytes:
    import tensorflow as tf

    feature = tf.train.Feature(float_list=tf.train.FloatList(value=[value]))
    serialized: bytes = tf.train.Example(
        features=tf.train.Features(feature={"x": feature})
    ).SerializeToString()
    return serialized


def test_requests_of_every_kind_are_run(tmp_path: Path) -> None:
    requests = {"classify": {"inputs": np.array([example(0.5)], object)}}
    assert replayed(version(tmp_path, "examples", requests)) == ["classify"]
    assert replayed(version(tmp_path, "double", {"serving_default": {"x": ROW}})) == ["serving_default"]
    assert replayed(tiny_models() / "double" / "1") == []


def test_a_file_runs_the_requests_that_it_can(models: Path) -> None:
    """Of the file that is served by preference, only what it has: pictures are beyond TFLite."""
    path = store.latest(models / "nn")
    assert replayed(path, skip_unfit=True, prefer_tflite=True) == ["serving_default"]


def test_requests_are_run_as_often_as_asked(tmp_path: Path) -> None:
    path = version(tmp_path, "double", {"serving_default": {"x": ROW}})
    loaded = Loader(warmup=False).load(path)
    spy = Spy(loaded.runtime)
    assert warmup.replay(path, Loaded(spy, loaded.any_shape), iterations=3) == 1
    assert spy.asked == ["serving_default"] * 3
    spy.close()


@pytest.mark.parametrize(
    ("requests", "reason"),
    [
        (
            {"serving_default": {"x": ROW.astype(np.int32)}},
            "Expects arg[0] to be float but int32 is provided",
        ),
        ({"serving_default": {"z": ROW}}, "Signature input alias: x"),
        ({"nope": {"x": ROW}}, "there is no signature nope"),
    ],
)
def test_a_request_that_fails_is_a_version_that_fails(
    tmp_path: Path, requests: Requests, reason: str
) -> None:
    path = version(tmp_path, "double", {"serving_default": {"x": ROW}, **requests})
    with pytest.raises(ArtifactError) as refused:
        Loader().load(path)
    assert f"{path / WARMUP}: warm-up request" in str(refused.value)
    assert reason in str(refused.value)
    Loader(warmup=False).load(path).runtime.close()


def test_the_old_version_goes_on_when_the_new_one_fails_its_warm_up(tmp_path: Path) -> None:
    from tfship.export.publishing.warmup_requests import write

    publish(tmp_path / "m", 1)
    settings = Settings(loader=Loader(prefer_tflite=True))
    with serving(config_of(m=tmp_path / "m"), settings) as client:
        stage = tmp_path / "m" / ".stage-2"
        shutil.copytree(tmp_path / "m" / "1", stage)
        write(stage, "m", [("serving_default", {"x": ROW})])
        file = stage / WARMUP
        file.write_bytes(file.read_bytes()[:-1])
        stage.rename(tmp_path / "m" / "2")
        wait_for(client, "ends within a record")
        assert client.states("m")["1"] == "AVAILABLE"
        np.testing.assert_array_equal(client.predict("m", x=ROW)["y"], ROW)


def wait_for(client: Client, message: str) -> None:
    from serving_fixtures import eventually

    def said() -> bool:
        _, answer = client.rest("/v1/models/m")
        return any(message in each["status"]["error_message"] for each in answer["model_version_status"])

    eventually(said)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return version(tmp_path_factory.mktemp("whole"), "double", {"serving_default": {"x": ROW}})


@given(data=st.data())
def test_a_damaged_file_is_found(whole: Path, data: st.DataObject) -> None:
    """Any changed byte and any missing end."""
    file = whole / WARMUP
    original = file.read_bytes()
    changed = bytearray(original)
    at = data.draw(st.integers(0, len(original) - 1))
    if data.draw(st.booleans()):
        changed[at] ^= data.draw(st.integers(1, 255))
    elif at:
        del changed[at:]
    else:
        return
    try:
        file.write_bytes(changed)
        with pytest.raises(ArtifactError, match="checksum is wrong|ends within a record"):
            list(warmup._records(file))
    finally:
        file.write_bytes(original)


def test_more_requests_than_there_may_be(tmp_path: Path) -> None:
    path = version(tmp_path, "double", {"serving_default": {"x": ROW}})
    file = path / WARMUP
    file.write_bytes(file.read_bytes() * 1001)
    with pytest.raises(ArtifactError, match="more than 1,000 warm-up requests"):
        Loader().load(path)
