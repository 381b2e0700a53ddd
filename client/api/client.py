"""The client library: `from tfship.client import Client`."""

from __future__ import annotations  # so that help() shows ImageLike, not its members

from collections.abc import Iterable
from types import TracebackType
from typing import Any, Literal, overload

from tfship.client.api.base_client import BaseClient, Prediction, enumerated
from tfship.client.api.inputs import ImageLike, Query
from tfship.client.images.batches import batched, complete
from tfship.client.targets.binding import Binding
from tfship.export.runtimes.protocol import Signature
from tfship.train.common.errors import Refused, TfshipError

__all__ = ["Client"]


class Client(BaseClient):
    """A client for a model on a model server, over gRPC or REST. Doesn't load TensorFlow.

        with Client("localhost:8500", model="cnn") as client:
            prediction = client.predict("seven.png")
            print(prediction.label, prediction.probability)

    address: "host:port" for gRPC (TensorFlow Serving's port 8500), "http://host:port" or "https://host:port" for REST
        (8501). Proxies for other machines are taken from the environment.
    model, version, label: the servable's name, and the number or label of a version; the newest by default.
    signature: "serving_default" takes scaled values, "serving_uint8" pixels, and "serving_bytes" encoded images, which
        the server prepares. For each, images may be given in any form.
    contract: preparation of images and names of classes, as a Contract, or the path of a contract.json or of the
        version directory that holds one. None means the contract of digits: 28 × 28, grey, labels "0" to "9".
    tls: encryption for gRPC, True or a Tls with an authority or a certificate. https:// implies it.
    headers: sent with each request, over gRPC as metadata, such as {"x-api-key": "…"}.
    timeout: seconds for a request, all attempts together.
    retries: further attempts, 0 to 4, if the server isn't reachable or isn't ready.
    gzip: whether large requests are compressed; None compresses only those to other machines.

    A Client may be shared by threads, which then share its persistent connections: one channel for gRPC, up to 32
    connections for REST. It connects on first use, and then requests the signature's tensors from the server. So it
    can be created before the server starts, and before a process forks, but must not be used in a process forked
    later. Create another Client if a newer version has other tensor names or another kind of scores. Close it, or use
    it as a context manager.

    Scores are interpreted by the contract and by the values of all scores so far; see `Prediction`.

    All errors are TfshipErrors, with the messages of the command line. The constructor raises UsageError for invalid
    arguments, keys and certificates, and ArtifactError for a missing or damaged contract.
    """

    def predict(self, image: ImageLike) -> Prediction:
        """Return the prediction for one image.

        image: one of
            a path (str or Path) of an image file, encoded bytes, or a PIL image, of any size and mode. It is turned
                upright by its EXIF orientation; transparent parts become white;
            uint8 pixels [height, width], [height, width, 1] or [height, width, 3] (RGB), 0 to 255, of any size,
                prepared in the same way;
            the model's values, floats of the contract's shape and range, sent unchanged: for digits [28, 28, 1] or
                [28, 28], 0.0 (paper) to 1.0 (ink).

        Strings are never URLs. Raises DataError for an invalid image, Unreachable if no server responds in time,
        Refused for an error response, and UsageError if the model has no such signature, if the signature takes no
        images, or if this client is closed.
        """
        target, binding = self._opened()
        query = self._query(image, binding)
        complete(self._exchange([query], binding), target.send)
        return self._prediction(query)

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
        """Return the predictions for images, in their order, with up to 64 images per request.

        images: any number of images as `predict` takes them, also one array [N, height, width, …]; read on demand.
        errors: "raise" raises the DataError of the first invalid image, and drops all predictions. "return" returns
            the error in place of the prediction. Images that the server decodes, and refuses, have a Refused.

        Raises what `predict` raises. Server errors that don't concern single images are raised in either case.
        """
        numbered, strict = enumerated(images, errors), errors == "raise"
        target, binding = self._opened()
        queries: list[Query] = []
        for batch in batched(self._numbered(number, image, binding, strict) for number, image in numbered):
            complete(self._exchange(batch, binding, strict), target.send)
            queries += batch
        return list(map(self._outcome, queries))

    def close(self) -> None:
        """Close the connections. Requests in flight in other threads may fail with a TfshipError."""
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
                self._target = self._transport()
            target, binding = self._target, self._binding
        if binding is None:
            found: dict[str, Signature] | Refused
            # Without the lock: if no server responds, threads would wait for each other.
            try:
                found = target.signatures()
            except Refused as error:
                found = error
            binding = self._bind(target, found)
        return target, binding

    def _transport(self) -> Any:
        if self._is_rest:
            from tfship.client.targets.rest import Rest

            return Rest(self._connection, self._servable)
        from tfship.client.targets.grpc import Grpc

        return Grpc(self._connection, self._servable)
