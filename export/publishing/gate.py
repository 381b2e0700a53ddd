"""The gate: which exports may be published, and why, in the terms of TFX's Evaluator.

A value threshold is an absolute floor; a change threshold is the largest allowed drop against a baseline: the
float32 model, and the last blessed version that was measured on the same images. A drop counts only if an exact test
supports it, so that two images of a small set decide nothing. What passes all checks is blessed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tfship.train.common import statistics
from tfship.train.common.errors import UsageError

__all__ = ["MAX_DROP", "MIN_AGREEMENT", "Gate", "GateCheck", "record"]

MAX_DROP = 0.005
MIN_AGREEMENT = 0.95
# A quantized format that agrees less often than this is published with a warning.
_GOOD_AGREEMENT = 0.99
# A format that computes in float32 as Keras does may differ by rounding only.
_EXACT = 0.999
_SIGNIFICANT = 0.05
MODEL = "model"


@dataclass(frozen=True)
class GateCheck:
    """One comparison: `found` must be at least `least`, both shares 0…1.

    Where a test tells chance from a loss, `p` is the probability that chance alone gives so little: a check fails
    only if that is below 0.05, too.
    """

    format: str
    rule: str
    found: float
    least: float
    p: float | None = None

    @property
    def passed(self) -> bool:
        """Whether it held. Half an image in ten million is float arithmetic, not a difference."""
        return self.found >= self.least - 5e-8 or (self.p is not None and self.p >= _SIGNIFICANT)

    def text(self) -> str:
        """Return the comparison as a person reads it."""
        test = "" if self.p is None else f" (p {self.p:.2g})"
        return f"{self.format}: {self.rule}: {self.found:.4f} found, {self.least:.4f} wanted{test}"


@dataclass(frozen=True)
class Gate:
    """The bounds, all shares 0…1.

    `min_accuracy` holds for the model and every format, `max_drop` is the largest loss of accuracy, and
    `min_agreement` is how often a quantized format must give the class that the float32 model gives.
    """

    min_accuracy: float = 0.0
    max_drop: float = MAX_DROP
    min_agreement: float = MIN_AGREEMENT

    def __post_init__(self) -> None:
        """Refuse bounds that nothing or everything would pass; UsageError."""
        for name, value in asdict(self).items():
            if not 0 <= value <= 1:
                raise UsageError(f"--{name.replace('_', '-')} {value:g}: expected a share from 0 to 1")

    def model_checks(self, accuracy: Mapping[str, Any], chance_p: float) -> list[GateCheck]:
        """Return the checks of the model itself: its `statistics.accuracy`, and the p of `statistics.chance_p`."""
        return [
            GateCheck(MODEL, "accuracy", accuracy["value"], self.min_accuracy),
            GateCheck(MODEL, "confidence that its accuracy isn't guessing", 1 - chance_p, 1 - _SIGNIFICANT),
        ]

    def checks(
        self,
        format_name: str,
        *,
        exact: bool,
        figures: Mapping[str, Any],
        reference: Mapping[str, Any] | None,
        blessed: Mapping[str, Any] | None,
    ) -> list[GateCheck]:
        """Return the checks of one format.

        `figures` are those of `export.publishing.verification.compare`, `exact` says that it computes in float32.
        `reference` is the accuracy of the model itself (`train.common.statistics.accuracy`), None where no labels are
        known; `blessed` is that of the same format in the last blessed version, if it was measured on the same
        images.
        """
        total, agreed = figures["compared"], figures["compared"] - figures["disagreements"]
        if exact:
            images, close = figures["images"], figures["images"] - figures["far"]
            found = [
                GateCheck(format_name, rule, part / whole, _EXACT, statistics.fewer(part, whole, _EXACT))
                for rule, part, whole in (
                    ("agreement with the model", agreed, total),
                    # Equal decisions don't make other probabilities right.
                    ("images with the model's scores", close, images),
                )
            ]
        else:
            rule = "agreement with the model"
            found = [GateCheck(format_name, rule, figures["agreement"], self.min_agreement)]
        accuracy = figures["accuracy"]
        if reference is None or accuracy is None:
            return found
        found.append(GateCheck(format_name, "accuracy", accuracy["value"], self.min_accuracy))
        p = statistics.lost(figures["wins"], figures["losses"])
        least = reference["value"] - self.max_drop
        found.append(GateCheck(format_name, "accuracy relative to the model", accuracy["value"], least, p))
        if blessed is not None:
            p = statistics.lower(
                accuracy["correct"], accuracy["images"], blessed["correct"], blessed["images"]
            )
            least = blessed["value"] - self.max_drop
            rule = "accuracy relative to the last blessed version"
            found.append(GateCheck(format_name, rule, accuracy["value"], least, p))
        return found


def warnings(artefacts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a line for each artefact that is published although it often differs from the model."""
    for each in artefacts:
        if each["agreement"] < _GOOD_AGREEMENT:
            yield (
                f"{each['format']}: differs from the model on {each['disagreements']:,} of {each['compared']:,} "
                "decisions"
            )


def record(gate: Gate, checks: Sequence[GateCheck], *, forced: bool) -> dict[str, Any]:
    """Return the blessing as an export card holds it: whether, by which bounds and checks, and why not."""
    failed = [check.text() for check in checks if not check.passed]
    return {
        "blessed": not failed,
        "forced": forced and bool(failed),
        "gate": asdict(gate),
        "checks": [{**asdict(check), "passed": check.passed} for check in checks],
        "why_not": failed,
    }
