"""Driver of grpcio's asyncio client."""

from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import line_protocol  # type: ignore[import-not-found]  # in the same folder


class _Aio:
    def connect(self, options: dict[str, Any]) -> Any:
        target = f"localhost:{options['port']}"
        arguments = [("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0)]
        if options["keepalive_ms"]:
            arguments += [
                ("grpc.keepalive_time_ms", options["keepalive_ms"]),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.max_pings_without_data", 0),
            ]
        compression = grpc.Compression.Gzip if options["gzip"] else None
        if not options["ca"]:
            return grpc.aio.insecure_channel(target, arguments, compression)
        files = [options[name] for name in ("ca", "key", "certificate")]
        texts = [Path(each).read_bytes() if each else None for each in files]
        return grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(*texts), arguments, compression)

    async def call(
        self, channel: Any, path: str, request: bytes, timeout: float | None
    ) -> bytes | tuple[int, str]:
        try:
            response: bytes = await channel.unary_unary(path)(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            return error.code().value[0], error.details() or ""
        return response

    async def close(self, channel: Any) -> None:
        await channel.close()


if __name__ == "__main__":
    line_protocol.main(_Aio())
