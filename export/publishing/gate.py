"""The gate: decides which exports may be published, in the terms of TFX's Evaluator.

A value threshold is an absolute floor. A change threshold is the largest allowed drop relative to a baseline: the
original model, and the last blessed version that was measured on the same images. A drop counts only if an exact test
finds it significant, so that two images of a small set decide nothing. An export that passes all checks is blessed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tfship.train.common import statistics
from tfship.train.common.errors import UsageError

__all__ = ["MAX_DROP", "MIN_AGREEMENT", "Gate", "GateCheck", "record"]

MAX_DROP = 0.005
MIN_AGREEMENT = 0.95
# Quantized formats with a lower agreement are published with a warning.
_GOOD_AGREEMENT = 0.99
# Formats that compute in float32, like Keras, may differ by rounding only.
_EXACT = 0.999
_SIGNIFICANT = 0.05
MODEL = "model"


@dataclass(frozen=True)
class GateCheck:
    """One comparison: `found` must be at least `least`, both shares 0…1.

    `p` is the p-value of an exact test, or None: the probability of a value this low by chance. With `p`, a check
    fails only if it is also below 0.05.
    """

    format: str
    rule: str
    found: float
    least: float
    p: float | None = None

    @property
    def passed(self) -> bool:
        """Whether the check passed; a difference of 5e-8 is tolerated as float rounding."""
        return self.found >= self.least - 5e-8 or (self.p is not None and self.p >= _SIGNIFICANT)

    def text(self) -> str:
        """Return the comparison as one line of text."""
        test = "" if self.p is None else f" (p {self.p:.2g})"
        return f"{self.format}: {self.rule}: {self.found:.4f}, expected at least {self.least:.4f}{test}"


@dataclass(frozen=True)
class Gate:
    """The gate's bounds, all shares 0…1.

    `min_accuracy` is the floor for the model and every format. `max_drop` is the largest allowed loss of accuracy.
    `min_agreement` is the smallest share of decisions in which a quantized format must agree with the model.
    """

    min_accuracy: float = 0.0
    max_drop: float = MAX_DROP
    min_agreement: float = MIN_AGREEMENT

    def __post_init__(self) -> None:
        """Raise UsageError for bounds that aren't shares."""
        for name, value in asdict(self).items():
            if not 0 <= value <= 1:
                raise UsageError(f"--{name.replace('_', '-')} {value:g}: expected a share from 0 to 1")

    def model_checks(self, accuracy: Mapping[str, Any], chance_p: float) -> list[GateCheck]:
        """Return the original model's checks; the parameters are from `statistics.accuracy` and `.chance_p`."""
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
        """Return the checks of the format `format_name`.

        `exact` formats compute in float32. `figures` are those of `export.publishing.verification.compare`.
        `reference` is the original model's accuracy (`train.common.statistics.accuracy`), or None without labels.
        `blessed` is the accuracy of the same format in the last blessed version, or None if that was measured on
        other images.
        """
        total, agreed = figures["compared"], figures["compared"] - figures["disagreements"]
        if exact:
            images, close = figures["images"], figures["images"] - figures["far"]
            found = [
                GateCheck(format_name, rule, part / whole, _EXACT, statistics.fewer(part, whole, _EXACT))
                for rule, part, whole in (
                    ("agreement with the model", agreed, total),
                    # Equal decisions don't imply equal probabilities.
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
    """Yield a line for each published artefact whose agreement with the model is below 0.99."""
    for each in artefacts:
        if each["agreement"] < _GOOD_AGREEMENT:
            yield (
                f"{each['format']}: differs from the model on {each['disagreements']:,} of {each['compared']:,} "
                "decisions"
            )


def record(gate: Gate, checks: Sequence[GateCheck], *, forced: bool) -> dict[str, Any]:
    """Return the export card's record of the gate: the result, the bounds, all checks, and the failed ones as text."""
    failed = [check.text() for check in checks if not check.passed]
    return {
        "blessed": not failed,
        "forced": forced and bool(failed),
        "gate": asdict(gate),
        "checks": [{**asdict(check), "passed": check.passed} for check in checks],
        "why_not": failed,
    }
