"""Routing of a SavedModel's signatures to runtimes: a TFLite file with equal scores takes less processor time."""

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from tfship.export.runtimes.protocol import Runtime, Signature
from tfship.serving.inference.execution import fits

__all__ = ["RoutedRuntime", "have_same_tensors"]


class RoutedRuntime:
    """A `Runtime` with the `signatures` of a SavedModel. `routes` are the runtimes that run some of them, by name.

    `saved_model` runs the other signatures, and all inputs whose shapes don't match their signature. It is None if
    there are no other signatures and shapes are checked before. The runtimes are owned and closed.
    """

    def __init__(
        self, signatures: Mapping[str, Signature], saved_model: Runtime | None, routes: Mapping[str, Runtime]
    ) -> None:
        self._signatures = signatures
        self._saved_model = saved_model
        self._routes = routes

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """The signatures of the SavedModel."""
        return self._signatures

    def run(self, signature: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See `Runtime.run`."""
        runtime, specs = self._routes.get(signature), self._signatures[signature].inputs
        if self._saved_model and not (
            runtime and all(fits(tensor.shape, specs[name].shape) for name, tensor in inputs.items())
        ):
            runtime = self._saved_model
        if runtime is None:
            raise ValueError(f"there is no signature {signature} that can be run")
        return runtime.run(signature, inputs)

    def close(self) -> None:
        """Free the memory of all runtimes."""
        for runtime in {id(each): each for each in (*self._routes.values(), self._saved_model)}.values():
            if runtime is not None:
                runtime.close()


def have_same_tensors(signature: Signature, other: Signature) -> bool:
    """Return whether two signatures have tensors of the same names, dtypes and shapes, none of them quantized."""
    return all(
        ours.keys() == theirs.keys()
        and all(
            (spec.dtype, spec.shape) == (theirs[name].dtype, theirs[name].shape)
            and not (spec.quantization or theirs[name].quantization)
            for name, spec in ours.items()
        )
        for ours, theirs in ((signature.inputs, other.inputs), (signature.outputs, other.outputs))
    )
