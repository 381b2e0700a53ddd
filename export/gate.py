"""The gate: which exports may be published, and why, in the terms of TFX's Evaluator.

A value threshold is an absolute floor; a change threshold is the largest allowed drop against a baseline: the
float32 model, and the last blessed version that was measured on the same images. What passes all of them is
blessed.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from train.errors import UsageError

__all__ = ["MAX_DROP", "Check", "Gate"]

MAX_DROP = 0.005
# A format that computes in float32 as Keras does may differ by rounding only.
_EXACT = 0.999


@dataclass(frozen=True)
class Check:
    """One comparison: what was `found` has to be at least `least`, both shares 0…1."""

    format: str
    rule: str
    found: float
    least: float

    @property
    def passed(self) -> bool:
        """Whether it held. Half an image in ten million is float arithmetic, not a difference."""
        return self.found >= self.least - 5e-8

    def text(self) -> str:
        """Return the comparison as a person reads it."""
        return f"{self.format}: {self.rule}: {self.found:.4f} found, {self.least:.4f} wanted"


@dataclass(frozen=True)
class Gate:
    """The bounds: `min_accuracy` for every artefact, and `max_drop` of accuracy, both shares 0…1."""

    min_accuracy: float = 0.0
    max_drop: float = MAX_DROP

    def __post_init__(self) -> None:
        """Refuse bounds that nothing or everything would pass; UsageError."""
        for name, value in asdict(self).items():
            if not 0 <= value <= 1:
                raise UsageError(f"--{name.replace('_', '-')} {value:g}: expected a share from 0 to 1")

    def checks(
        self,
        format_name: str,
        *,
        exact: bool,
        figures: Mapping[str, Any],
        reference: float,
        blessed: float | None,
    ) -> list[Check]:
        """Return the checks of one artefact.

        `figures` are those of `export.verify.compare`, `exact` says that it computes in float32, `reference` is
        the Keras model's accuracy and `blessed` that of the same format in the last blessed version, if it was
        measured on the same images.
        """
        accuracy = figures["accuracy"]["value"]
        found = [Check(format_name, "accuracy", accuracy, self.min_accuracy)]
        if exact:
            found.append(Check(format_name, "agreement with Keras", figures["agreement"], _EXACT))
        found.append(
            Check(format_name, "accuracy against Keras' float32", accuracy, reference - self.max_drop)
        )
        if blessed is not None:
            found.append(
                Check(
                    format_name,
                    "accuracy against the last blessed version",
                    accuracy,
                    blessed - self.max_drop,
                )
            )
        return found


def record(gate: Gate, checks: list[Check], *, forced: bool) -> dict[str, Any]:
    """Return the blessing as an export card holds it: whether, by which bounds and checks, and why not."""
    failed = [check.text() for check in checks if not check.passed]
    return {
        "blessed": not failed,
        "forced": forced and bool(failed),
        "gate": asdict(gate),
        "checks": [{**asdict(check), "passed": check.passed} for check in checks],
        "why_not": failed,
    }
