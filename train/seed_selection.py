"""Selection of the best of several runs that differ only in the seed, by validation accuracy."""

import statistics
from dataclasses import asdict, replace
from pathlib import Path

from tfship.train.cards import Card, copy
from tfship.train.recipe import RECIPES
from tfship.train.tuning_record import TRIED

__all__ = ["publish_best", "summary"]


def publish_best(cards: dict[Path, Card], folder: Path) -> Card:
    """Copy the run with the best validation accuracy into `folder` and return its card, which records all runs.

    `cards` maps the folder of each finished run to its card. Ties are broken by the lowest validation loss. The test
    images aren't used.
    """
    best = max(cards, key=lambda each: (cards[each].validation["value"], -cards[each].validation["loss"]))
    runs = [
        {
            "seed": card.seed,
            "validation": card.validation["value"],
            "validation_loss": card.validation["loss"],
            "accuracy": card.accuracy["value"],
            "corruptions": card.corruptions,
            "seconds": card.seconds,
            "weights_sha256": card.weights_sha256,
        }
        for card in cards.values()
    ]
    card = cards[best]
    tuned = card.recipe in (asdict(RECIPES[recipe][card.model]) for recipe in ("best", "robust"))
    chosen = replace(card, seeds=runs, tried=TRIED[card.model] if tuned else [])
    copy(chosen, best, folder)
    return chosen


def summary(card: Card) -> str:
    """Return a sentence with the mean and spread of the accuracy over all of a card's seeds."""
    values = [run["accuracy"] for run in card.seeds]
    return (
        f"{len(values)} seeds: accuracy {statistics.mean(values):.4f} on average (standard deviation "
        f"{statistics.stdev(values):.4f}, {min(values):.4f} to {max(values):.4f}); seed {card.seed} is the best "
        "on validation"
    )
