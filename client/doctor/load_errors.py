"""Known reasons why a model server doesn't serve a version, by its error messages, with remedies.

The messages are those of TensorFlow Serving, TensorFlow and the embedded server, in a version's status or in the log.
"""

import re
from dataclasses import dataclass

from tfship.client.doctor.findings import clean

__all__ = ["Reason", "explain", "in_log"]

_MOUNT = "give the path as the server sees it; with Docker, mount it there (-v /path/on/this/machine:{0}:ro)"
_MODES = 'let the server\'s user read it: chmod -R a+rX, or run the container as yourself (--user "$(id -u)")'
_AGAIN = "copy or export the version again, under a temporary name, and rename it when it is complete"


@dataclass(frozen=True)
class Reason:
    """The meaning of a server's error message, and the remedy."""

    meaning: str
    remedy: str


# Pattern, meaning and remedy; the pattern's groups are filled in. The first matching row is used.
_REASONS = (
    (
        r"Could not find base path (\S+) for servable",
        "the base path {0} doesn't exist where the server runs",
        _MOUNT,
    ),
    (
        r"No versions of servable \S+ found under base path (\S+)",
        "the base path {0} holds no folder named by an integer, as the server sees it",
        _MOUNT + ", and put each version into a folder such as {0}/1",
    ),
    (
        r"(\S+): no such directory",
        "the base path {0} doesn't exist where the server runs",
        _MOUNT,
    ),
    (
        r"(\S+): holds no integer-named version directory",
        "the base path {0} holds no folder named by an integer, as the server sees it",
        _MOUNT + ", and put each version into a folder such as {0}/1",
    ),
    (
        r"to have an absolute path or URI; got base_path\(\)=(\S*)",
        "the base path {0!r} is relative, which TensorFlow Serving refuses",
        "give an absolute path, as the server sees it",
    ),
    (
        r"Permission ?denied|PERMISSION_DENIED|can't be read",
        "the server's user may not read the files",
        _MODES,
    ),
    (
        r"(?i)warm-?up",
        "a warmup request fails",
        "start the server with --enable_model_warmup=false, or export the version again",
    ),
    (
        r"Op type not registered '([^']+)'|no (?:custom )?op(?:erator)? .*?registered.*?'([^']+)'",
        "the graph needs the operator {0}, which this server doesn't have",
        "use a server at least as new as the TensorFlow of the export, or export without that operator",
    ),
    (
        r"Read less bytes than requested|saved_model\.pb: damaged|Can't parse .*saved_model\.pb|can't parse",
        "saved_model.pb is damaged or truncated",
        _AGAIN,
    ),
    (
        r"Could not find SavedModel|holds no saved_model\.pb|SavedModel file does not exist",
        "the version directory holds no saved_model.pb",
        _AGAIN,
    ),
    (
        r"holds model\.tflite and no SavedModel",
        "the version holds only a TFLite file",
        "start the server with --prefer_tflite_model",
    ),
    (
        r"matching supplied tags",
        "the SavedModel has no graph with the tags that the server loads",
        "start the server with --saved_model_tags, or export with the tag serve",
    ),
    (
        r"(?i)data.?loss|checksum|too short to be an sstable|truncated|Bad magic number|Unable to parse tensor",
        "the variables are damaged or truncated",
        _AGAIN,
    ),
    (
        r"Failed to find any matching files for|not a valid checkpoint|variables\.(?:index|data)",
        "the variables' files are missing or don't match",
        _AGAIN,
    ),
    (
        r"(?i)RESOURCE_EXHAUSTED|OOM|out of memory|MemoryError|bad_alloc|Cannot allocate memory|Insufficient resources",
        "the server has too little memory for the version",
        "give the server more memory, or serve fewer models or versions at a time",
    ),
    (
        r"(?i)process .*(?:died|dies)|killed the process|Illegal instruction",
        "loading the version kills the server's process",
        "check whether memory was short (dmesg), and whether the processor supports what TensorFlow needs (AVX)",
    ),
    (
        r"Request to assign label to version (\d+) of model (\S+),",
        "a label of model {1} names version {0}, which isn't available",
        "serve that version, or start the server with --allow_version_labels_for_unavailable_models",
    ),
    (
        r"label \S+ names version (\d+), which is not available",
        "a label names version {0}, which isn't available",
        "serve that version, or start the server with --allow_version_labels_for_unavailable_models",
    ),
    (
        r"requests unsupported platform (\S*)",
        "the config requests the platform {0!r}",
        'write model_platform: "tensorflow"',
    ),
    (
        r"(?i)address already in use|Failed to bind",
        "another process uses the port",
        "stop it, or choose another --port and --rest_api_port",
    ),
)
_COMPILED = tuple((re.compile(pattern), Reason(*reason)) for pattern, *reason in _REASONS)
_UNKNOWN = Reason(
    "", "read the server's log around this message; if that doesn't help, export the version again"
)

# A log line must also match this: logs mention warmup and variables without errors, too.
_COMPLAINT = re.compile(
    r"(?i)error|fail|could not|can't|no versions of|\bE\b|^E\d{4}|died|refuse|illegal|no such"
)
_LINES = 20_000


def explain(words: str) -> Reason:
    """Return meaning and remedy of a server's reason for not serving a version; an unknown one has no meaning."""
    words = words[:10_000]
    for pattern, reason in _COMPILED:
        if match := pattern.search(words):
            groups = [clean(each.rstrip(".;,")) for each in match.groups() if each is not None]
            return Reason(reason.meaning.format(*groups), reason.remedy.format(*groups))
    return _UNKNOWN


def in_log(text: str) -> list[tuple[str, Reason]]:
    """Return the known errors in a server's log, each once, with its first line."""
    found: dict[Reason, str] = {}
    for line in text.splitlines()[-_LINES:]:
        if _COMPLAINT.search(line[:10_000]) and (reason := explain(line)).meaning:
            found.setdefault(reason, line)
    return [(line, reason) for reason, line in found.items()]
