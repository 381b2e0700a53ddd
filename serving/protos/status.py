"""Error of a failed request, and the status codes that REST and gRPC share."""

from enum import IntEnum

__all__ = ["Code", "StatusError", "internal_error", "invalid"]


class Code(IntEnum):
    """The canonical codes (google/rpc/code.proto); names as in `grpc.StatusCode`."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16

    @classmethod
    def of(cls, error: BaseException, otherwise: "Code") -> "Code":
        """Return the code of the status or TensorFlow error that `error` was raised from, or `otherwise`."""
        cause = error.__cause__
        if isinstance(cause, StatusError):
            return cause.code
        code = getattr(cause, "error_code", None)
        return cls(code) if isinstance(code, int) and code in cls._value2member_map_ else otherwise


class StatusError(Exception):
    """A failed request. The client gets `code` and `message` unchanged; `detail`, by default `message`, is logged."""

    def __init__(self, code: Code, message: str, detail: str = "") -> None:
        super().__init__(code, message, detail)
        self.code = code
        self.message = message
        self.detail = detail or message

    def __str__(self) -> str:
        return self.message


def invalid(message: str) -> StatusError:
    """Return the error for an invalid request."""
    return StatusError(Code.INVALID_ARGUMENT, message)


def internal_error() -> StatusError:
    """Return the error for a bug, whose details only the log has."""
    return StatusError(Code.INTERNAL, "Internal error; the server's log has the details")
