"""Certificates for tests of TLS, made by the openssl command."""

import contextlib
import http.client
import json
import shutil
import ssl
import subprocess
from pathlib import Path

import grpc
import pytest

from serving_fixtures import ROW, Client
from tfship.serving.protos.messages import predict_pb2
from tfship.serving.protos.stubs import PredictionServiceStub
from tfship.serving.protos.tensors import from_proto, to_proto
from tfship.serving.server.tls import ServerTls

if shutil.which("openssl") is None:
    pytest.skip("openssl isn't installed", allow_module_level=True)


class Certificates:
    """Private keys and certificates: `ca` has signed `server` and `client`, and nobody `stranger`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._certificate("ca", "-x509")
        self._certificate("stranger", "-x509")
        for name, extension in (
            ("server", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            ("client", "basicConstraints=CA:FALSE"),
        ):
            self._certificate(name, "-x509", "-CA", "ca.pem", "-CAkey", "ca.key", "-addext", extension)

    def _certificate(self, name: str, *arguments: str, curve: str = "P-256") -> None:
        self.openssl(
            *f"req -newkey ec -pkeyopt ec_paramgen_curve:{curve} -nodes -days 2".split(),
            *("-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem", *arguments),
        )

    def openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.folder, capture_output=True, check=True)

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def tls(self, *, verified: bool = False) -> ServerTls:
        return ServerTls(
            self.read("server.key"), self.read("server.pem"), self.read("ca.pem") if verified else None
        )

    def config(self, path: Path, *, verified: bool = False, **fields: str) -> Path:
        """Write an SSLConfig; `fields` are other texts than the right ones."""
        texts = {
            "server_key": self.read("server.key").decode(),
            "server_cert": self.read("server.pem").decode(),
            **({"custom_ca": self.read("ca.pem").decode()} if verified else {}),
            **fields,
        }
        # JSON's escapes are the text format's, too.
        lines = [f"{name}: {json.dumps(text)}" for name, text in texts.items()]
        path.write_text("\n".join([*lines, f"client_verify: {str(verified).lower()}"]))
        return path

    def rest(self, client: Client, host: str, name: str = "") -> int:
        """Return the status of a request over HTTPS, with the certificate `name`."""
        context = ssl.create_default_context(cadata=self.read("ca.pem").decode())
        if name:
            context.load_cert_chain(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        connection = http.client.HTTPSConnection(host, client.rest_port, context=context, timeout=100)
        with contextlib.closing(connection):
            connection.request("GET", "/v1/models/m")
            return connection.getresponse().status

    def grpc(self, client: Client, host: str, name: str = "") -> list[list[float]]:
        """Return a prediction over gRPC with TLS, with the certificate `name`."""
        own = (self.read(f"{name}.key"), self.read(f"{name}.pem")) if name else (None, None)
        credentials = grpc.ssl_channel_credentials(self.read("ca.pem"), *own)
        with grpc.secure_channel(f"{host}:{client.grpc_port}", credentials) as channel:
            request = predict_pb2.PredictRequest()
            request.model_spec.name = "m"
            request.inputs["x"].CopyFrom(to_proto(ROW))
            answer = PredictionServiceStub(channel).Predict(request, timeout=100)
            rows: list[list[float]] = from_proto(answer.outputs["y"]).tolist()
            return rows
