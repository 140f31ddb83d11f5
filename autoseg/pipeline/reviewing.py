"""How good new segmentations probably are: the verdict in a record, the cases that a person should look at, maps of uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.calibration import FoldOpinion, Verdict, join, judge
from autoseg.pipeline.records import Record
from autoseg.pipeline.reporter import Reporter
from autoseg.prediction import Model


def verdict_on(model: Model, opinions: Sequence[Sequence[FoldOpinion]]) -> Verdict | None:
    """Return how good a segmentation probably is; None where the model is not calibrated.

    Parameters
    ----------
    opinions : as in the `Segmentation` by this model
    """
    names = [name for name, _ in model.plan.labels.scored]
    known = [one.calibration for one in model.members if one.calibration is not None]
    verdicts = [judge(folds, names, one) for folds, one in zip(opinions, known, strict=False) if folds]
    return join(verdicts) if verdicts else None


def verdict_facts(model: Model, opinions: Sequence[Sequence[FoldOpinion]]) -> dict[str, Any]:
    """Return how good a result probably is, as the record holds it; nothing where the model is not calibrated."""
    verdict = verdict_on(model, opinions)
    if verdict is None:
        return {}
    agreement = None if verdict.agreement is None else _rounded(verdict.agreement)
    return {"expected_dice": _rounded(verdict.expected_dice), "agreement": agreement, "review": verdict.review,
            "review_reasons": list(verdict.reasons)}  # fmt: skip


def say_reviews(record: Record, reporter: Reporter) -> None:
    """Report which results a person should look at, where the model is calibrated."""
    judged = {name: facts for name, facts in record.cases.items() if "review" in facts}
    wanted = [name for name, facts in judged.items() if facts["review"]]
    if wanted:
        some = ", ".join(wanted[:5]) + (", ..." if len(wanted) > 5 else "")
        reporter.say(f"{len(wanted)} of {len(judged)} results should be looked at: {some}; the reasons are in {record.file}")
    elif judged:
        reporter.say("all results look as good as those of the validation")


def tempered(probabilities: NDArray[np.float32], model: Model) -> NDArray[np.float32]:
    """Return probabilities `(heads, z, y, x)` at the temperature that out-of-fold results gave; as they are without one.

    Of an ensemble of configurations, the mean of their temperatures. Overwrites what it is given.
    """
    known = [one.calibration.temperature for one in model.members if one.calibration is not None]
    if not known:
        return probabilities
    power = np.float32(len(known) / sum(known))
    np.power(probabilities, power, out=probabilities)
    if model.plan.labels.regions:
        others = np.power(1 - np.power(probabilities, 1 / power), power)
        return np.asarray(probabilities / (probabilities + others), dtype=np.float32)
    probabilities /= probabilities.sum(axis=0)
    return probabilities


def _rounded(values: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: None if value is None else round(value, 4) for name, value in values.items()}
