"""The results of `benchmarks.studies.rollout.study` as tables: for the terminal and benchmarks/README.md."""

import statistics
from typing import Any

from tfship.benchmarks.harness.server_process import PROTOCOLS
from tfship.benchmarks.studies.rollout.study import TOLERANCE_PERCENT
from tfship.benchmarks.studies.table_layout import load_remark, table

__all__ = ["failures", "render"]

_HEADERS = ["scenario", "protocol", "requests", "failed", "measured"]
_KINDS = {"killed": "one of two servers killed", "unready": "one of two servers without its model"}
_WAYS = {
    "envoy": "one gRPC connection to Envoy",
    "round_robin": "one gRPC client with round robin (headless Service)",
    "connection": "one gRPC connection to a server (Service)",
}


def render(results: dict[str, Any], layout: str) -> str:
    """See `StudyTable.render`."""
    return "\n".join(
        [_heading(results), "", table(_HEADERS, _rows(results), layout, _ALIGN), "", *_remarks(results)]
    )


_ALIGN = ("left", "left", "right", "right", "left")


def failures(results: dict[str, Any]) -> list[str]:
    """See `StudyTable.failures`."""
    found = []
    for protocol, name in PROTOCOLS.items():
        row = results["replacements"][protocol]
        if row["failed"]:
            found.append(
                f"{row['failed']} requests over {name} failed during replacements: {row['reasons'][0]}"
            )
        row = results["canary"][protocol]
        if row["failed"] or abs(row["canary_percent"] - results["canary"]["percent"]) > TOLERANCE_PERCENT:
            found.append(
                f"the canary got {row['canary_percent']} % over {name}; {row['failed']} requests failed"
            )
    return found


def _rows(results: dict[str, Any]) -> list[list[str]]:
    rows = []

    def add(scenario: str, protocol: str, row: dict[str, Any], measured: str) -> None:
        rows.append([scenario, PROTOCOLS[protocol], f"{row['requests']:,}", f"{row['failed']:,}", measured])

    for key, what in (("replacements", "after the manifest's wait"), ("without_wait", "without it")):
        each = results[key]
        for protocol in PROTOCOLS:
            measured = f"end {max(each['drain_seconds']):.1f} s after SIGTERM at most"
            add(f"{each['count']} servers replaced, SIGTERM {what}", protocol, each[protocol], measured)
    for protocol in PROTOCOLS:
        row = results["canary"][protocol]
        share = f"{row['canary_percent']:.2f} % for the canary"
        add(f"canary with a weight of {results['canary']['percent']} %", protocol, row, share)
    for each in results["failures"]:
        for protocol in PROTOCOLS:
            row = each[protocol]
            last = f"last failure after {row['last_failure_seconds']:.1f} s"
            add(_KINDS[each["kind"]], protocol, row, last)
    for way, name in _WAYS.items():
        row = results["balancing"][way]
        add(name, "grpc", row, f"{row['busier_percent']:.1f} % for the busier of two servers")
    return rows


def _heading(results: dict[str, Any]) -> str:
    environment, settings = results["environment"], results["manifest"]
    return (
        f"{environment['cpu']}, {environment['cores']} cores shared by servers, Envoy {results['envoy']} and callers; "
        f"{results['created'][:10]}. Model: {results['model']['name']}, {results['model']['format']}. From the "
        f"manifests: {settings['wait_seconds']} s of wait, {settings['grace_seconds']} s of grace, a readiness probe "
        f"every {settings['ready_period_seconds']} s ({settings['ready_failures']} failures), and the flags "
        f"{' '.join(settings['flags'])}."
    )


def _remarks(results: dict[str, Any]) -> list[str]:
    replaced = results["replacements"]
    remarks = [
        f"The {replaced['count']} replacements took {replaced['seconds']:.0f} s; a new server was ready after "
        f"{statistics.median(replaced['start_seconds']):.1f} s (median). {results['callers']} callers per protocol "
        "send one request after the other over their own connection. Envoy doesn't retry.",
        "Without the wait, the address of a server is removed 1 s after its SIGTERM, as if a node learned of it late.",
        "A killed server refuses connections until outlier detection ejects it. A server without its model returns "
        "errors of the client's kind, which outlier detection ignores, until its readiness probe has failed. Envoy "
        "needs one response 503 for that; a kubelet needs the manifest's number of failures.",
        *(
            f"{_KINDS[each['kind']]}: without requests after {each['removed_seconds']:.1f} s"
            for each in results["failures"]
        ),
        *load_remark(results),
    ]
    return [f"- {remark}" for remark in remarks]
