"""Every error that tfship raises on purpose, in one tree.

    TfshipError          exit 1   something tfship can explain
    ├── UsageError       exit 2   the command line or a config file asks for something impossible
    ├── DataError        exit 3   a data set or a picture can't be used
    ├── ArtifactError    exit 4   a model file, card or version is missing, damaged or doesn't match
    │   └── ConversionError       a model can't be written in a format
    ├── TargetError      exit 5   something that answers predictions can't be reached or refuses
    │   ├── Unreachable           nothing answers at that address
    │   └── Refused               it answers, and the answer is an error
    └── ResultError      exit 6   a measurement or a check came out as it must not

Each message says what was found, what was expected and what to do next, in one line.
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
    """The root; `exit_code` is what a command that ends in this error returns."""

    exit_code = 1


class UsageError(TfshipError):
    """A flag, an argument or a config file asks for something impossible."""

    exit_code = 2


class DataError(TfshipError):
    """A data set or a picture can't be used."""

    exit_code = 3


class ArtifactError(TfshipError):
    """A model file, a card or a version directory is missing, damaged or doesn't match."""

    exit_code = 4


class ConversionError(ArtifactError):
    """A model can't be written in a format."""


class TargetError(TfshipError):
    """Something that answers predictions can't be reached or refuses."""

    exit_code = 5


class Unreachable(TargetError):  # noqa: N818 - named for what happened, as `except Unreachable` reads
    """Nothing answers at that address."""


class Refused(TargetError):  # noqa: N818
    """The target answered, and its answer is an error."""


class ResultError(TfshipError):
    """A measurement or a check came out as it must not."""

    exit_code = 6
