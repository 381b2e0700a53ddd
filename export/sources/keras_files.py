"""Keras files: their format, configuration and model. Loads TensorFlow on first use.

Reads a `.keras` archive, an unzipped one in a folder, or an HDF5 file, whatever the file's suffix. Files of Keras 2 are
loaded with Keras 2 (`tf_keras`) if it is installed, since only Keras 2 computes exactly as in their training. Otherwise
they are loaded with Keras 3, if their configuration means the same there.
"""

import contextlib
import copy
import importlib.util
import json
import re
import shutil
import sys
import tempfile
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from tfship.train.common.errors import ArtifactError, UsageError
from tfship.train.common.files import DAMAGED
from tfship.train.common.tensorflow_loader import quiet, tensorflow

__all__ = ["WAY_OUT", "KerasFile", "condense", "in_float32", "inspect", "reason", "run_imports", "silent"]

WAY_OUT = 'in the code that made it, call model.export("folder"), then export that folder'
_EXPECTED = "expected a .keras or .h5 file with a complete model, or a SavedModel folder"
_CONFIG, _WEIGHTS, _METADATA = "config.json", "model.weights.h5", "metadata.json"
_HDF5 = b"\x89HDF\r\n\x1a\n"
# Maximum length of Keras' reason in a message, in characters.
_MAX_REASON = 400

# Messages of Keras 3 and Keras 2 about an unknown class or function.
_UNKNOWN = re.compile(
    r"(?:Could not (?:locate|deserialize) (?:class|function) |Cannot deserialize object of type "
    r"|Unknown [a-z ]+?: ?|Could not interpret [a-z ]+?: ?)['\"`]?(?P<name>[A-Za-z_][\w>]*)"
)

# Arguments that Keras 3 lacks, with the values that can be dropped without effect; None for any value.
_DROPPED: dict[str, tuple[Any, ...] | None] = {
    "groups": (1,),
    "renorm": (False,),
    "rng_type": None,
    "time_major": (False,),
    "virtual_batch_size": (None,),
}
# Policies and dtypes without TFLite kernels.
_OTHER_FLOATS = ("bfloat16", "float16", "float64", "mixed_bfloat16", "mixed_float16")
# Arguments used only in training, by the prefix of a layer's class.
_DROPPED_BY = {
    "SeparableConv": ("kernel_constraint", "kernel_initializer", "kernel_regularizer"),
    "SpatialDropout": ("noise_shape", "trainable"),
}
# Layers that have an argument of these names in Keras 3.
_KEPT = {"Conv1D", "Conv2D", "Conv3D", "GroupNormalization"}


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Suppress log output of TensorFlow and Keras, and Python warnings from their code."""
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@dataclass(frozen=True)
class KerasFile:
    """A Keras model's file or folder: its `path`, its `config` as written by Keras, and the Keras `version`."""

    path: Path
    config: dict[str, Any]
    version: str

    @property
    def legacy(self) -> bool:
        """Whether Keras 1 or 2 wrote the file."""
        return self.version.startswith(("1.", "2."))

    def load(self, custom: dict[str, Any], edit: Callable[[Any], Any] | None = None) -> Any:
        """Return the model, not compiled. `custom` maps names to classes and functions.

        `edit` returns a changed copy of the configuration, from which the layers are made; the weights are loaded
        unchanged. Raises ArtifactError with Keras' reason and a remedy.
        """
        self._refuse_code()
        tensorflow()
        config = copy.deepcopy(self.config)
        if edit is not None:
            config = edit(config)
        if not self.legacy:
            import keras

            model, error = self._try_load(keras, config, custom)
            if error is not None:
                raise ArtifactError(self._explain(error, f"Keras {keras.__version__}")) from error
            return model
        return self._load_legacy(config, custom)

    def _load_legacy(self, config: dict[str, Any], custom: dict[str, Any]) -> Any:
        try:
            import tf_keras
        except ImportError:
            tf_keras = None
        error: Exception | None = None
        if tf_keras is not None:
            model, error = self._try_load(tf_keras, config, custom)
            if error is None:
                return model
        import keras

        differs = "hard_sigmoid" in json.dumps(config)
        if not differs:
            model, other = self._try_load(keras, _for_keras_3(config), custom)
            if other is None:
                return model
            error = error or other
        if tf_keras is not None and error is not None:
            raise ArtifactError(self._explain(error, f"Keras {tf_keras.__version__}")) from error
        why = "hard_sigmoid differs in Keras 2 and 3" if differs or error is None else reason(error)
        release = ".".join(tensorflow().__version__.split(".")[:2])
        raise ArtifactError(
            f"{self.path}: Keras {keras.__version__} can't load this file of Keras {self.version} ({why}); also "
            f"install Keras 2, pip install 'tf-keras=={release}.*', or {WAY_OUT}"
        ) from error

    def _try_load(
        self, library: Any, config: dict[str, Any], custom: dict[str, Any]
    ) -> tuple[Any, Exception | None]:
        # Catches inside `silent`, which would print the suppressed output on an exception.
        with silent():
            try:
                with self._file_with(config) as path:
                    return library.models.load_model(path, custom_objects=custom, compile=False), None
            except Exception as error:  # noqa: BLE001 - Keras raises whatever its layers raise
                return None, error

    @contextlib.contextmanager
    def _file_with(self, config: dict[str, Any]) -> Iterator[Path]:
        """Yield the path of the file, or of a copy with this configuration and a suffix that Keras recognizes."""
        hdf5 = self.path.is_file() and not zipfile.is_zipfile(self.path)
        suffix = ".h5" if hdf5 else ".keras"
        if config == self.config and (self.path.is_dir() or self.path.suffix == suffix):
            yield self.path
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"model{suffix}")
            text = json.dumps(config)
            if hdf5:
                import h5py

                shutil.copyfile(self.path, path)
                with h5py.File(path, "r+") as file:
                    file.attrs["model_config"] = text
            else:
                with zipfile.ZipFile(path, "w") as archive:
                    for name, read in _members(self.path):
                        archive.writestr(name, text if name == _CONFIG else read())
            yield path

    def _refuse_code(self) -> None:
        """Raise ArtifactError if the file contains Python code, which Keras 2 would run without a warning."""
        holder = "a Lambda"
        for each in _dictionaries(self.config):
            inner = each.get("config")
            function = None
            if each.get("class_name") == "Lambda" and isinstance(inner, dict):
                holder, function = f"the Lambda layer {inner.get('name')}", inner.get("function")
            # Keras 2 stores compiled code as a list.
            if isinstance(function, list) or each.get("class_name") == "__lambda__":
                raise ArtifactError(
                    f"{self.path}: contains {holder}, Python code, which isn't run from a file; replace it with Keras "
                    f"layers or operations, or {WAY_OUT}"
                )

    def _explain(self, error: Exception, library: str) -> str:
        why = reason(error)
        found = _UNKNOWN.search(why)
        if found:
            name = found["name"].rpartition(">")[2]
            return (
                f"{self.path}: {library} doesn't know {name} ({why}); give --import my_layers.py, the file that "
                f"registers {name}, or {WAY_OUT}"
            )
        return f"{self.path}: {library} can't load this file of Keras {self.version} ({why}); {WAY_OUT}"


def inspect(path: Path) -> KerasFile:
    """Return the Keras file at `path` with its configuration; ArtifactError, with what it is, for anything else."""
    try:
        if path.is_dir():
            return _inspect_folder(path)
        with path.open("rb") as file:
            start = file.read(8)
        if zipfile.is_zipfile(path):
            return _inspect_archive(path)
        if start == _HDF5:
            return _inspect_hdf5(path)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: no such file or folder; {_EXPECTED}") from error
    except (*DAMAGED, RuntimeError) as error:
        raise ArtifactError(
            f"{path}: damaged, or not a Keras file ({condense(str(error))}); {_EXPECTED}"
        ) from error
    if start[4:8] == b"TFL3":
        raise ArtifactError(
            f"{path}: a TFLite file, which is the result of an export; give the Keras file or the SavedModel that it "
            "was made from, or serve it unchanged with --prefer_tflite_model"
        )
    if path.name == "saved_model.pb":
        raise ArtifactError(f"{path}: part of a SavedModel; give its folder, {path.parent}")
    kind = (
        "an empty file" if not start else "truncated or damaged" if start[:2] == b"PK" else "not a Keras file"
    )
    raise ArtifactError(f"{path}: {kind}; {_EXPECTED}")


def run_imports(imports: Sequence[Path]) -> dict[str, Any]:
    """Run Python files that define custom layers and return their classes and functions by name.

    Raises UsageError, with the line number, if a file is missing or fails.
    """
    custom: dict[str, Any] = {}
    if imports:
        tensorflow()
    for path in imports:
        module = _module(path.resolve())
        custom |= {
            name: each
            for name, each in vars(module).items()
            if callable(each) and getattr(each, "__module__", None) == module.__name__
        }
    return custom


def in_float32(config: Any) -> Any:
    """Change `config`, in place, to layers that compute in float32 and to float32 inputs, and return it."""
    for each in _dictionaries(config):
        inner = each.get("config")
        if (
            each.get("class_name") in ("DTypePolicy", "Policy")
            and inner
            and inner.get("name") in _OTHER_FLOATS
        ):
            inner["name"] = "float32"
        if each.get("dtype") in _OTHER_FLOATS:
            each["dtype"] = "float32"
        if each.get("class_name") == "InputLayer" and isinstance(inner, dict) and "dtype" in inner:
            inner["dtype"] = "float32"
    return config


def condense(text: str) -> str:
    """Return a message of TensorFlow or Keras as one line, without the configurations that it quotes."""
    text = text.rpartition("Exception encountered: ")[2]
    text = re.split(r"\s*(?:Full (?:object )?config:|using config=|config=\{)", text)[0] or text
    while (shorter := re.sub(r"\{[^{}]{60,}\}", "{…}", text)) != text:
        text = shorter
    text = " ".join(text.split()).rstrip(". ")
    return text if len(text) <= _MAX_REASON else text[:_MAX_REASON] + "…"


def reason(error: BaseException) -> str:
    """Return the reason of an `error` of Keras or TensorFlow, in one line."""
    text = condense(str(error))
    kind = type(error).__name__
    return text if " " in text else f"{kind}: {text}" if text else kind


def _inspect_folder(path: Path) -> KerasFile:
    if (path / _CONFIG).is_file() and (path / _WEIGHTS).is_file():
        return _described(path, (path / _CONFIG).read_bytes(), (path / _METADATA).read_bytes())
    inside = sorted(each.parent for each in path.glob("*/saved_model.pb"))
    if inside:
        raise ArtifactError(
            f"{path}: contains {len(inside)} SavedModels; give the folder of one, such as {inside[-1]}"
        )
    raise ArtifactError(f"{path}: a folder without saved_model.pb; {_EXPECTED}")


def _inspect_archive(path: Path) -> KerasFile:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if _CONFIG not in names:
            packed = any(name.endswith("saved_model.pb") for name in names)
            raise ArtifactError(
                f"{path}: a zipped SavedModel; unzip it and give the folder with saved_model.pb"
                if packed
                else f"{path}: a zip without {_CONFIG}, so not a Keras file; {_EXPECTED}"
            )
        return _described(path, archive.read(_CONFIG), archive.read(_METADATA))


def _described(path: Path, config: bytes, metadata: bytes) -> KerasFile:
    return KerasFile(path, json.loads(config), str(json.loads(metadata)["keras_version"]))


def _inspect_hdf5(path: Path) -> KerasFile:
    import h5py

    with h5py.File(path) as file:
        config, version = file.attrs.get("model_config"), file.attrs.get("keras_version", "2.0")
    if config is None:
        raise ArtifactError(
            f'{path}: contains weights only, no layers; call model.load_weights("{path.name}") on the model in your '
            'code, then model.save("model.keras"), and export that file'
        )
    text, number = (each.decode() if isinstance(each, bytes) else str(each) for each in (config, version))
    return KerasFile(path, json.loads(text), number)


def _members(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    if path.is_dir():
        for each in sorted(path.rglob("*")):
            if each.is_file():
                yield each.relative_to(path).as_posix(), each.read_bytes
        return
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            yield name, lambda name=name: archive.read(name)  # type: ignore[misc]


def _for_keras_3(config: Any) -> Any:
    """Remove, in place, the arguments of a Keras 2 configuration that Keras 3 lacks, and return it."""
    for each in _dictionaries(config):
        name, inner = each.get("class_name"), each.get("config")
        if not isinstance(name, str) or not isinstance(inner, dict):
            continue
        for argument, harmless in _DROPPED.items():
            if argument in inner and name not in _KEPT and (harmless is None or inner[argument] in harmless):
                del inner[argument]
        if isinstance(inner.get("dtype"), dict) and inner["dtype"].get("class_name") == "Policy":
            inner["dtype"] = inner["dtype"]["config"]["name"]
        for argument in next((_DROPPED_BY[each] for each in _DROPPED_BY if name.startswith(each)), ()):
            inner.pop(argument, None)
        if name == "BatchNormalization" and isinstance(inner.get("axis"), list) and len(inner["axis"]) == 1:
            (inner["axis"],) = inner["axis"]
    return config


def _dictionaries(config: Any) -> Iterator[dict[str, Any]]:
    """Yield all dictionaries in a configuration, outer ones first."""
    if isinstance(config, dict):
        yield config
    if isinstance(config, (dict, list)):
        for each in list(config.values()) if isinstance(config, dict) else config:
            yield from _dictionaries(each)


def _module(path: Path) -> ModuleType:
    """Run a Python file once, as the module of its name, since configurations may refer to that module."""
    loaded = sys.modules.get(path.stem)
    if loaded is not None and getattr(loaded, "__file__", None) == str(path):
        return loaded
    name = path.stem if loaded is None else f"imported {path}"
    if name in sys.modules:
        return sys.modules[name]
    if not path.is_file():
        raise UsageError(
            f"--import {path}: no such file; expected a Python file that registers custom layers"
        )
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(
            f"--import {path}: not a .py file; expected a Python file that registers custom layers"
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        lines = [
            each.lineno for each in traceback.extract_tb(error.__traceback__) if each.filename == str(path)
        ]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        where = f"line {line}: " if line else ""
        raise UsageError(
            f"--import {path}: {where}{type(error).__name__}: {condense(str(error))}; expected a Python file that runs "
            "without errors and registers custom layers"
        ) from error
    finally:
        sys.path.remove(str(path.parent))
    return module
