"""Why a model server doesn't serve a version, by its own words: what they mean, and what to do about it.

The words are those of TensorFlow Serving, TensorFlow and the embedded server, in a version's status or in the log.
"""

import re
from dataclasses import dataclass

from tfship.client.doctor.findings import clean

__all__ = ["Reason", "explain", "in_log"]

_MOUNT = (
    "name the directory as the server sees it: with Docker, mount it there (-v /path/on/this/machine:{0}:ro)"
)
_MODES = 'let the server\'s user read it: chmod -R a+rX, or run the container as yourself (--user "$(id -u)")'
_AGAIN = "copy or export the version again, under another name first and renamed when it is whole"


@dataclass(frozen=True)
class Reason:
    """What a server's words mean, and the remedy."""

    meaning: str
    remedy: str


# Groups of the pattern are filled in. The first that matches counts.
_REASONS = (
    (
        r"Could not find base path (\S+) for servable",
        "the base path {0} doesn't exist where the server runs",
        _MOUNT,
    ),
    (
        r"No versions of servable \S+ found under base path (\S+)",
        "the base path {0} holds no folder named by a whole number, as the server sees it",
        _MOUNT + ", and put each version into a folder such as {0}/1",
    ),
    (
        r"(\S+): no such directory",
        "the base path {0} doesn't exist where the server runs",
        _MOUNT,
    ),
    (
        r"(\S+): holds no integer-named version directory",
        "the base path {0} holds no folder named by a whole number, as the server sees it",
        _MOUNT + ", and put each version into a folder such as {0}/1",
    ),
    (
        r"to have an absolute path or URI; got base_path\(\)=(\S*)",
        "the base path {0!r} is relative, which TensorFlow Serving refuses",
        "write it from the root on, as the server sees it",
    ),
    (
        r"Permission ?denied|PERMISSION_DENIED|can't be read",
        "the server's user may not read the files",
        _MODES,
    ),
    (
        r"(?i)warm-?up",
        "a warm-up request fails",
        "start the server with --enable_model_warmup=false, or export the version again",
    ),
    (
        r"Op type not registered '([^']+)'|no (?:custom )?op(?:erator)? .*?registered.*?'([^']+)'",
        "the graph needs the operator {0}, which this server doesn't have",
        "use a server that isn't older than the TensorFlow of the export, or export without that operator",
    ),
    (
        r"Read less bytes than requested|saved_model\.pb: damaged|Can't parse .*saved_model\.pb|can't parse",
        "saved_model.pb is damaged or was cut off",
        _AGAIN,
    ),
    (
        r"Could not find SavedModel|holds no saved_model\.pb|SavedModel file does not exist",
        "the version directory holds no saved_model.pb",
        _AGAIN,
    ),
    (
        r"holds model\.tflite and no SavedModel",
        "the version holds a TFLite file only",
        "start the server with --prefer_tflite_model",
    ),
    (
        r"matching supplied tags",
        "the SavedModel has no graph with the tags that the server asks for",
        "start the server with --saved_model_tags, or export with the tag serve",
    ),
    (
        r"(?i)data.?loss|checksum|too short to be an sstable|truncated|Bad magic number|Unable to parse tensor",
        "the variables are damaged or were cut off",
        _AGAIN,
    ),
    (
        r"Failed to find any matching files for|not a valid checkpoint|variables\.(?:index|data)",
        "the variables' files are missing or don't belong together",
        _AGAIN,
    ),
    (
        r"(?i)RESOURCE_EXHAUSTED|OOM|out of memory|MemoryError|bad_alloc|Cannot allocate memory|Insufficient resources",
        "the server has too little memory for it",
        "give the server more memory, or serve fewer models or versions at a time",
    ),
    (
        r"(?i)process .*(?:died|dies)|killed the process|Illegal instruction",
        "loading it ends the server's process",
        "look whether memory was short (dmesg), and whether the processor has what TensorFlow was built for (AVX)",
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
        "the config asks for the platform {0!r}",
        'write model_platform: "tensorflow"',
    ),
    (
        r"(?i)address already in use|Failed to bind",
        "another process has the port",
        "stop it, or choose another --port and --rest_api_port",
    ),
)
_COMPILED = tuple((re.compile(pattern), Reason(*reason)) for pattern, *reason in _REASONS)
_UNKNOWN = Reason(
    "", "the server's log tells more around these words; export the version again if they don't help"
)

# What a line of a log must have, besides a reason that is known: it tells of warm-up and variables in good times, too.
_COMPLAINT = re.compile(
    r"(?i)error|fail|could not|can't|no versions of|\bE\b|^E\d{4}|died|refuse|illegal|no such"
)
_LINES = 20_000


def explain(words: str) -> Reason:
    """Return what a server's reason for not serving a version means; the meaning is empty for unknown words."""
    words = words[:10_000]
    for pattern, reason in _COMPILED:
        if match := pattern.search(words):
            groups = [clean(each.rstrip(".;,")) for each in match.groups() if each is not None]
            return Reason(reason.meaning.format(*groups), reason.remedy.format(*groups))
    return _UNKNOWN


def in_log(text: str) -> list[tuple[str, Reason]]:
    """Return the complaints in a server's log that have a known reason, each once, with the line."""
    found: dict[Reason, str] = {}
    for line in text.splitlines()[-_LINES:]:
        if _COMPLAINT.search(line[:10_000]) and (reason := explain(line)).meaning:
            found.setdefault(reason, line)
    return [(line, reason) for reason, line in found.items()]
