import numpy as np
import pytest

from tfship.train.common.tensorflow_loader import tensorflow
from tfship.train.recipe import NETWORKS

tensorflow()

import keras  # noqa: E402

from tfship.train.models import MODELS, build, folded  # noqa: E402

# Layer by layer, as the issue that asked for these networks gives them: (class, output, parameters).
EXPECTED = {
    "nn": [
        ("Flatten", (784,), 0),
        ("Dense", (100,), 78_500),
        ("BatchNormalization", (100,), 400),
        ("Dropout", (100,), 0),
        ("Dense", (80,), 8_080),
        ("BatchNormalization", (80,), 320),
        ("Dropout", (80,), 0),
        ("Dense", (50,), 4_050),
        ("Dense", (10,), 510),
    ],
    "cnn": [
        ("Conv2D", (26, 26, 32), 320),
        ("Conv2D", (24, 24, 64), 18_496),
        ("MaxPooling2D", (8, 8, 64), 0),
        ("Flatten", (4096,), 0),
        ("Dense", (128,), 524_416),
        ("Dropout", (128,), 0),
        ("Dense", (10,), 1_290),
    ],
}
TOTAL = {"nn": (91_860, 91_500), "cnn": (544_522, 544_522)}
TEACHER = 226_434
ACTIVATIONS = {"nn": ["relu", "relu", "relu", "softmax"], "cnn": ["relu", "relu", "relu", "softmax"]}


def test_there_are_these_two_and_their_teacher() -> None:
    assert set(NETWORKS) == set(EXPECTED)
    assert set(MODELS) == {*EXPECTED, "teacher"}
    assert build("teacher", dropout=0.5).count_params() == TEACHER


@pytest.mark.parametrize("name", NETWORKS)
def test_architecture(name: str) -> None:
    model = build(name, dropout=0.5)
    layers = [(type(each).__name__, each.output.shape[1:], each.count_params()) for each in model.layers]
    assert layers == EXPECTED[name]
    trainable = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    assert (model.count_params(), trainable) == TOTAL[name]
    activations = [each.activation.__name__ for each in model.layers if hasattr(each, "activation")]
    assert activations == ACTIVATIONS[name]
    summary: list[str] = []
    model.summary(print_fn=lambda line, **_: summary.append(line))
    assert f"{TOTAL[name][0]:,}" in "\n".join(summary)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_answers_probabilities_in_float32(name: str, policy: str) -> None:
    before = keras.config.dtype_policy()
    model = build(name, 0.5, policy)
    assert keras.config.dtype_policy() == before
    assert {weight.dtype for weight in model.weights} == {"float32"}
    assert model.layers[1].compute_dtype == policy.removeprefix("mixed_")
    output = model.predict(np.zeros((3, 28, 28, 1), np.float32), verbose=0)
    assert (output.shape, output.dtype) == ((3, 10), np.float32)
    np.testing.assert_allclose(output.sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_the_deployed_network_computes_the_same_as_the_trained_one(name: str) -> None:
    random = np.random.default_rng(1)
    trained = build(name, 0.5, training=True)
    trained.set_weights(
        [
            # Variances are positive; a negative scale must be folded, too.
            random.uniform(0.5, 2, each.shape)
            if "variance" in each.path
            else random.normal(0, 0.3, each.shape)
            for each in trained.weights
        ]
    )
    deployed = folded(trained, 0.5)
    images = random.uniform(0, 1, (20, 28, 28, 1)).astype(np.float32)
    expected = trained.predict(images, verbose=0)
    assert expected.std() > 0.1
    np.testing.assert_allclose(deployed.predict(images, verbose=0), expected, rtol=1e-3, atol=1e-5)
    kinds = [type(layer) for layer in deployed.layers]
    assert kinds == [type(layer) for layer in build(name, 0.5).layers]
