"""Driver of grpclib, which is pure Python with h2."""

import ssl
from typing import Any

import line_protocol  # type: ignore[import-not-found]  # in the same folder
from grpclib.client import Channel, UnaryUnaryMethod  # type: ignore[import-not-found]
from grpclib.config import Configuration  # type: ignore[import-not-found]
from grpclib.encoding.base import CodecBase  # type: ignore[import-not-found]
from grpclib.exceptions import GRPCError, StreamTerminatedError  # type: ignore[import-not-found]


class _Bytes(CodecBase):  # type: ignore[misc]
    """Messages that are bytes already."""

    __content_subtype__ = "proto"

    def encode(self, message: bytes, message_type: object) -> bytes:
        return message

    def decode(self, data: bytes, message_type: object) -> bytes:
        return data


class _Grpclib:
    def connect(self, options: dict[str, Any]) -> Any:
        tls: ssl.SSLContext | None = None
        if options["ca"]:
            tls = ssl.create_default_context(cafile=options["ca"])
            tls.set_alpn_protocols(["h2"])
            if options["certificate"]:
                tls.load_cert_chain(options["certificate"], options["key"])
        settings: dict[str, Any] = {}
        if options["keepalive_ms"]:
            settings = {
                "_keepalive_time": options["keepalive_ms"] / 1e3,
                "_keepalive_permit_without_calls": True,
                "_http2_max_pings_without_data": 0,
                "_http2_min_sent_ping_interval_without_data": options["keepalive_ms"] / 1e3,
            }
        config = Configuration(**settings)
        return Channel("localhost", options["port"], ssl=tls, codec=_Bytes(), config=config)

    async def call(
        self, channel: Any, path: str, request: bytes, timeout: float | None
    ) -> bytes | tuple[int, str]:
        try:
            response: bytes = await UnaryUnaryMethod(channel, path, bytes, bytes)(request, timeout=timeout)
        except GRPCError as error:
            return error.status.value, error.message or ""
        except TimeoutError:
            return 4, "the client's deadline"
        except (OSError, StreamTerminatedError) as error:
            # It has no status for connections that fail.
            return 14, str(error)
        return response

    async def close(self, channel: Any) -> None:
        channel.close()


if __name__ == "__main__":
    line_protocol.main(_Grpclib())
