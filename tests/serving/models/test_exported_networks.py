"""What `tfship export` writes, served: one server for all tests, since TensorFlow takes seconds to get warm."""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from serving_fixtures import Client, config_of, serving
from tfship.export.preprocessing import graph
from tfship.export.publishing import store
from tfship.export.publishing.cards import CARD, DIFFERENCE
from tfship.export.runtimes.protocol import DEFAULT_SIGNATURE
from tfship.serving.inference import execution
from tfship.serving.inference.execution import Loaded
from tfship.serving.inference.request_context import Call
from tfship.serving.models import warmup
from tfship.serving.models.loader import Loader
from tfship.train.data import datasets
from tfship.train.data.datasets import Digits


@dataclass(frozen=True)
class Served:
    """A server of `nn`: what it has loaded, and the signatures that its warm-up has run."""

    client: Client
    loaded: Loaded
    warmed: list[str]


@pytest.fixture(scope="module")
def served(models: Path) -> Iterator[Served]:
    loads: list[Loaded] = []
    warmed: list[str] = []
    load, run = Loader.load, execution.run

    def loading(loader: Loader, path: Path) -> Loaded:
        loads.append(load(loader, path))
        return loads[-1]

    def running(loaded: Loaded, name: str, tensors: dict[str, NDArray[Any]]) -> Any:
        warmed.append(name)
        return run(loaded, name, tensors)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loader, "load", loading)
        patch.setattr(warmup, "run", running)
        with serving(config_of(nn=models / "nn")) as client:
            (loaded,) = loads
            yield Served(client, loaded, warmed)


def test_versions_warm_themselves_up(served: Served) -> None:
    called = served.warmed
    assert list(dict.fromkeys(called)) == ["serving_default", "serving_uint8", "serving_bytes", "classify"]
    # Encoded images go several ways: PNG and JPEG, small and large.
    assert called.count("serving_bytes") == called.count("classify") > 4
    assert served.loaded.notes[-1] == f"warmed up with {len(called)} requests"


def test_tflite_answers_the_signature_of_an_equal_file(models: Path, sample: Digits, served: Served) -> None:
    path = store.latest(models / "nn")
    card: Any = json.loads((path / CARD).read_text())
    differences = {each["format"]: each.get(DIFFERENCE) for each in card["artefacts"]}
    assert 0 <= differences.pop("float32") <= 1e-5
    assert set(differences.values()) == {None}
    images = datasets.to_input(sample.x_test[::10])
    pixels = sample.x_test[::10, ..., np.newaxis]

    def scores(loaded: Loaded) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, batch in ((DEFAULT_SIGNATURE, images), ("serving_uint8", pixels)):
            call = Call("Predict", "REST")
            found[name] = execution.run(loaded, name, {"image": batch}, call)["probabilities"]
            found[f"{name} by"] = call.runtime
        return found

    routed, saved_model = scores(served.loaded), Loader(saved_model_only=True, warmup=False).load(path)
    alone = scores(saved_model)
    saved_model.runtime.close()
    assert (routed["serving_default by"], routed["serving_uint8 by"]) == ("TFLite", "TF1")
    assert (alone["serving_default by"], alone["serving_uint8 by"]) == ("TF1", "TF1")
    np.testing.assert_allclose(routed[DEFAULT_SIGNATURE], alone[DEFAULT_SIGNATURE], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(routed["serving_uint8"], alone["serving_uint8"])
    assert served.loaded.notes[0] == (
        "TFLite (tflite/float32.tflite) answers serving_default, and TensorFlow answers classify, serving_bytes, "
        "serving_uint8"
    )


def test_pictures_are_classified(sample: Digits, served: Served) -> None:
    """As a client sends them, to the signatures that take them."""
    pictures = [base64.b64encode(graph.png(each[..., None])).decode() for each in sample.x_test[:300:30]]
    examples = [{"image/encoded": {"b64": each}} for each in pictures]
    status, classified = served.client.rest(
        "/v1/models/nn:classify", {"signature_name": "classify", "examples": examples}
    )
    assert status == 200
    instances = [{"image_bytes": {"b64": each}} for each in pictures]
    status, predicted = served.client.rest(
        "/v1/models/nn:predict", {"signature_name": "serving_bytes", "instances": instances}
    )
    assert status == 200
    assert [max(row, key=lambda each: each[1])[0] for row in classified["results"]] == [
        row["label"] for row in predicted["predictions"]
    ]
    right = [
        row["label"] == str(truth)
        for row, truth in zip(predicted["predictions"], sample.y_test[:300:30], strict=True)
    ]
    assert sum(right) >= 9
    status, answer = served.client.rest(
        "/v1/models/nn:predict",
        {"signature_name": "serving_bytes", "instances": [{"image_bytes": {"b64": "AAAA"}}]},
    )
    assert status == 400
    assert "neither a PNG nor a JPEG image" in answer["error"]
