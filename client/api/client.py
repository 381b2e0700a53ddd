"""The client for other programs: `from tfship.client import Client`."""

from __future__ import annotations  # so that help() says ImageLike, and not all that it may be

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Literal, overload

from tfship.client.api.base_client import Asked, Configured, Prediction, culprits, several, stacked
from tfship.client.api.inputs import ImageLike
from tfship.client.images.batches import batched
from tfship.client.targets.binding import ENCODED, Binding
from tfship.export.runtimes.protocol import Signature
from tfship.train.common.errors import Refused, TfshipError

__all__ = ["Client"]


class Client(Configured):
    """Asks a model on a model server about images, over gRPC or REST, without TensorFlow.

        with Client("localhost:8500", model="cnn") as client:
            prediction = client.predict("seven.png")
            print(prediction.label, prediction.probability)

    address: "host:port" speaks gRPC (TensorFlow Serving's port 8500), "http://host:port" and "https://host:port" REST
        (8501). Which proxies are on the way to another machine, the environment says, as usual.
    model, version, label: the servable, by name; of its versions the newest, unless there is a number or a label.
    signature: its signature; "serving_default" takes scaled values, "serving_uint8" pixels and "serving_bytes"
        encoded pictures, which the server prepares. Images may be given in any form for each.
    contract: what images become and what the classes are called: a Contract, or the path of a contract.json or of the
        version directory that holds one. None is the contract of digits: 28 × 28, grey, labels "0" to "9".
    tls: encryption for gRPC, True or a Tls with an authority or a certificate; https:// has it already.
    headers: go with each request, such as {"x-api-key": "…"}; over gRPC as metadata.
    timeout: seconds for an answer, all attempts together.
    retries: 0 to 4, when the server isn't there or isn't ready.
    gzip: whether large requests are compressed; None: unless the server is on this machine.

    A Client may be shared by threads, which is also how connections are kept and used again: one channel for gRPC, up
    to 32 connections for REST. It connects when it is first used, and asks the server for the signature's tensors
    then, so it can be made before the server is there, and before a process forks; once used, it mustn't be taken into
    a forked process. When a newer version takes or answers tensors of other names, or answers numbers of another kind,
    make another Client. Close it, or use it as a context manager.

    What the answers mean is decided by the contract and by the values of all answers so far; see `Prediction`.

    All errors are TfshipErrors, with the messages of the command line. Here: UsageError for arguments that can't be,
    or for keys and certificates of no use; ArtifactError for a contract that is missing or damaged.
    """

    def predict(self, image: ImageLike) -> Prediction:
        """Return what the model says of one image.

        image: one of
            a path (str or Path) of a picture file, encoded bytes, or a PIL image: any size and mode, turned upright
                by its EXIF orientation, laid on white where it is transparent;
            uint8 pixels [height, width], [height, width, 1] or [height, width, 3] (RGB), 0 to 255, any size, prepared
                as pictures are;
            floats of the contract's shape, [28, 28, 1] or [28, 28] for digits, in its range, 0.0 (paper) to 1.0 (ink)
                for digits: the model's values, taken as they are.

        Strings are never URLs. Raises DataError for an image that can't be used, Unreachable where no server answers
        in time, Refused where it says no, and UsageError if the model has no such signature, or none for images, or
        this client is closed.
        """
        target, binding = self._opened()
        asked = Asked("picture", self._row(image, "picture", binding))
        self._read([asked], target.answer(stacked([asked.row], binding)))
        return self._prediction(asked)

    @overload
    def predict_many(
        self, images: Iterable[ImageLike], *, errors: Literal["raise"] = "raise"
    ) -> list[Prediction]: ...

    @overload
    def predict_many(
        self, images: Iterable[ImageLike], *, errors: Literal["return"]
    ) -> list[Prediction | TfshipError]: ...

    def predict_many(
        self, images: Iterable[ImageLike], *, errors: Literal["raise", "return"] = "raise"
    ) -> list[Prediction] | list[Prediction | TfshipError]:
        """Return what the model says of each image, in their order; up to 64 go into one request.

        images: any number of what `predict` takes, also as one array [N, height, width, …]; read as they are needed.
        errors: what becomes of an image that can't be used. "raise" raises its DataError, by which all is over, for
            images that were asked for before, too. "return" puts the error in the prediction's place; images that a
            server prepares, and refuses, have a Refused there.

        Raises what `predict` raises. Where the server doesn't answer, there is no list, whatever `errors` says.
        """
        numbered, strict = several(images, errors), errors == "raise"
        target, binding = self._opened()
        prepared = (self._prepared(number, image, binding, strict) for number, image in numbered)
        asked = [each for batch in batched(prepared) for each in self._asked(batch, target, binding, strict)]
        return list(map(self._outcome, asked))

    def close(self) -> None:
        """Close the connections; what other threads still ask for may fail with a TfshipError."""
        with self._lock:
            self._closed = True
            if self._target is not None:
                self._target.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _opened(self) -> tuple[Any, Binding]:
        with self._lock:
            self._check_open()
            if self._target is None:
                self._target = self._made()
            target, binding = self._target, self._binding
        if binding is None:
            found: dict[str, Signature] | Refused
            # Not under the lock: where nothing answers, threads would wait for one another.
            try:
                found = target.signatures()
            except Refused as error:
                found = error
            binding = self._bind(target, found)
        return target, binding

    def _made(self) -> Any:
        if self._is_rest:
            from tfship.client.targets.rest import Rest

            return Rest(self._connection, self._servable)
        from tfship.client.targets.grpc import Grpc

        return Grpc(self._connection, self._servable)

    def _asked(self, batch: Sequence[Asked], target: Any, binding: Binding, strict: bool) -> Sequence[Asked]:
        """Ask for the images of a batch that can be asked for, and return all."""
        asked = [each for each in batch if each.error is None]
        try:
            for part in binding.parts(len(asked)):
                rows = [each.row for each in asked[part]]
                self._read(asked[part], target.answer(stacked(rows, binding)))
        except Refused as refusal:
            # A model that decodes the pictures itself refuses all for one that it can't read: find that one.
            if binding.dtype != ENCODED or len(asked) == 1:
                raise
            for each in asked:
                if each.answer is not None:
                    continue
                try:
                    self._read([each], target.answer(stacked([each.row], binding)))
                except Refused as error:
                    each.error = Refused(f"{each.name}: {error}")
            culprits(asked, refusal, strict=strict)
        return batch
