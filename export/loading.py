"""Models as users bring them, loaded: Keras files and SavedModels as one function. Loads TensorFlow when it is used."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.runtime import DEFAULT_SIGNATURE
from train.backend import quiet, tensorflow
from train.errors import ArtifactError

__all__ = ["LoadedModel", "keras_model", "load"]


@dataclass(frozen=True)
class LoadedModel:
    """A model with one image input and one output of scores.

    `function` takes a tensor of images float32 [N, height, width, channels] with the values that the model was trained
    on, and returns its scores as they are, float32 [N, outputs]: it casts to the input's dtype, and drops the
    channel axis of a grey model that has none. `exported` computes the same, rescaled to lose less in int8
    (`export.equalize`), and is what is converted; `tracked` holds its variables. `layers` are the names of its layers,
    `equalized` those that were rescaled; both are empty for a SavedModel.

    `shape` is (height, width, channels) of an image. `batch` is the number of images that the model takes at a time,
    None for any. `integer` tells that its input takes whole numbers, so pixels as they are. `activation` is the name of
    the last activation ("softmax", "sigmoid", "linear" …), None where it isn't known. `value_range` are the values of
    pixels 0 and 255 that its first layers suggest, None where they suggest nothing.
    """

    function: Callable[[Any], Any]
    exported: Callable[[Any], Any]
    tracked: Any
    layers: tuple[str, ...]
    equalized: list[str]
    shape: tuple[int, int, int]
    batch: int | None = None
    integer: bool = False
    activation: str | None = None
    value_range: tuple[float, float] | None = None
    precision: str = "float32"


def load(path: Path, size: tuple[int, int] | None = None, imports: Sequence[Path] = ()) -> LoadedModel:
    """Load a Keras file or a SavedModel's folder.

    `size` is height and width for a model that takes images of any; `imports` are Python files that register the
    custom layers and functions of a Keras file. Raises ArtifactError, with the loader's own reason and the way out, for
    what can't be loaded or isn't a model with one image input and one output.
    """
    del size, imports
    return _saved_model(path) if path.is_dir() else _keras(path)


def keras_model(path: Path) -> Any:
    """Load a `.keras` file, not compiled. ArtifactError, with Keras' own reason, if it can't be."""
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file; expected a .keras file or a SavedModel's folder")
    tensorflow()
    import keras

    try:
        with quiet():
            return keras.models.load_model(path, compile=False)
    # Keras raises what its layers raise, TypeError for an unknown one among them.
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise ArtifactError(
            f"{path}: Keras can't load it ({reason[0] if reason else type(error).__name__}); expected a .keras "
            "file of Keras 3 (`make train` writes the examples')"
        ) from error


def _keras(path: Path) -> LoadedModel:
    model = keras_model(path)
    import keras

    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ArtifactError(
            f"{path}: has {len(model.inputs)} inputs and {len(model.outputs)} outputs; expected one image and one "
            "score for each class"
        )
    layers = [
        each
        for each in model._flatten_layers(include_self=False)
        if not isinstance(each, keras.layers.InputLayer)
    ]
    rescales = isinstance(layers[0], (keras.layers.Rescaling, keras.layers.Normalization))
    from export.equalize import equalize

    rescaled = keras_model(path)
    shape = tuple(model.inputs[0].shape)
    return LoadedModel(
        _float(lambda images: model(images, training=False), shape),
        _float(lambda images: rescaled(images, training=False), shape),
        # As TensorFlow knows them: of Keras' own wrappers it would save none.
        [variable.value for variable in rescaled.variables],
        tuple(each.name for each in layers),
        equalize(rescaled),
        _size(path, shape),
        activation=getattr(getattr(layers[-1], "activation", None), "__name__", None),
        value_range=(0.0, 255.0) if rescales else (0.0, 1.0),
    )


def _saved_model(path: Path) -> LoadedModel:
    tf = tensorflow()
    try:
        with quiet():
            loaded = tf.saved_model.load(str(path))
    except (OSError, ValueError, tf.errors.OpError) as error:
        raise ArtifactError(
            f"{path}: TensorFlow can't load it ({' '.join(str(error).split())[:200]})"
        ) from error
    signature = loaded.signatures.get(DEFAULT_SIGNATURE)
    if signature is None:
        raise ArtifactError(
            f"{path}: has no signature {DEFAULT_SIGNATURE}; there are {', '.join(loaded.signatures) or 'none'}"
        )
    inputs, outputs = signature.structured_input_signature[1], list(signature.structured_outputs)
    if len(inputs) != 1 or len(outputs) != 1:
        raise ArtifactError(
            f"{path}: {DEFAULT_SIGNATURE} has inputs {list(inputs)} and outputs {outputs}; expected one of each"
        )
    ((name, spec),) = inputs.items()
    shape = tuple(spec.shape.as_list())

    def call(images: Any) -> Any:
        return signature(**{name: images})[outputs[0]]

    function = _float(call, shape)
    return LoadedModel(function, function, loaded, (), [], _size(path, shape))


def _float(function: Callable[[Any], Any], shape: Sequence[int | None]) -> Callable[[Any], Any]:
    """Return `function`, whose input has this shape, as one from float32 [N, H, W, C] to float32 scores."""

    def call(images: Any) -> Any:
        scores = function(images[..., 0] if len(shape) == 3 else images)
        return tensorflow().cast(scores, "float32")

    return call


def _size(path: Path, shape: Sequence[int | None]) -> tuple[int, int, int]:
    sizes = tuple(shape[1:])
    if len(sizes) == 2:
        sizes = (*sizes, 1)
    match sizes:
        case (int(height), int(width), 1 | 3 as channels) if height > 0 and width > 0:
            return height, width, channels
    raise ArtifactError(
        f"{path}: takes {list(shape)}; expected one image of a fixed size, [None, height, width, 1 or 3]"
    )
