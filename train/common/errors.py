"""The exceptions that tfship raises, in one tree.

    TfshipError          exit 1   any error that tfship can explain
    ├── UsageError       exit 2   the command line or a config file is invalid
    ├── DataError        exit 3   a data set or an image can't be used
    ├── ArtifactError    exit 4   a model file, card or version is missing, damaged or doesn't match
    │   └── ConversionError       a model can't be converted to a format
    ├── TargetError      exit 5   a prediction target can't be reached or returns an error
    │   ├── Unreachable           no response from the address
    │   └── Refused               the response is an error
    └── ResultError      exit 6   a measurement or a check failed

Each message is one line: what was found, what was expected and what to do next.
Exit 130 is Ctrl-C, as in a shell.
"""

__all__ = [
    "ArtifactError",
    "ConversionError",
    "DataError",
    "Refused",
    "ResultError",
    "TargetError",
    "TfshipError",
    "Unreachable",
    "UsageError",
]


class TfshipError(Exception):
    """Base class; `exit_code` is the exit code of a command that ends with this error."""

    exit_code = 1


class UsageError(TfshipError):
    """A flag, an argument or a config file is invalid."""

    exit_code = 2


class DataError(TfshipError):
    """A data set or an image can't be used."""

    exit_code = 3


class ArtifactError(TfshipError):
    """A model file, a card or a version directory is missing, damaged or doesn't match."""

    exit_code = 4


class ConversionError(ArtifactError):
    """A model can't be converted to a format."""


class TargetError(TfshipError):
    """A prediction target can't be reached or returns an error."""

    exit_code = 5


class Unreachable(TargetError):  # noqa: N818 - named for the event: `except Unreachable`
    """There is no response from the address."""


class Refused(TargetError):  # noqa: N818
    """The target's response is an error."""


class ResultError(TfshipError):
    """A measurement or a check failed."""

    exit_code = 6
