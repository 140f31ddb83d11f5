"""The sections of the report about confidence: how well it is calibrated, and which references it contradicts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoseg import calibration
from autoseg.calibration import Calibration, CurvePoint
from autoseg.colours import colour_of
from autoseg.pipeline.calibrating import read_calibration, read_counts
from autoseg.pipeline.suspecting import read_suspects
from autoseg.planning.configuration import Plan
from autoseg.report import Drawing, Grid, Items, Section, Text, drawings
from autoseg.tables import Table
from autoseg.workspace import Workspace

_LISTED = 10  # suspects on the page


def confidence_sections(workspace: Workspace, shown: str, folds: Mapping[str, Sequence[Path]], plan: Plan) -> list[Section]:
    """Return the sections about a configuration's confidence, and about suspects: those for which there is something to show.

    Parameters
    ----------
    shown : the configuration on the page; of an ensemble, the first one that is calibrated is shown
    folds : the validated folds of each configuration
    """
    sections = []
    known = read_calibration(workspace)
    name = next((part for part in shown.split("+") if part in known and part in folds), None)
    if name is not None:
        blocks = _calibrated(name, known[name], folds[name], plan)
        sections.append(Section(name="calibration", title="Confidence and expected Dice", blocks=blocks))
    if (found := read_suspects(workspace)) is not None:
        rows = tuple((str(n), one.case, one.label, f"{one.score:.2f}", "\n".join(one.reasons)) for n, one in enumerate(found.suspects, 1))
        head = (
            f"{len(found.suspects)} of {found.cases} references are contradicted with confidence by networks ({found.configuration}) that "
            f"have not seen the case. A person should look at them; the pictures are in the folder {workspace.suspects.name}."
            if rows
            else f"None of {found.cases} references is contradicted with confidence by networks that have not seen the case."
        )
        table = Table(text="", columns=("", "case", "label", "score", "what may be wrong"), rows=rows[:_LISTED])
        sections.append(
            Section(name="suspects", title="References to look at", blocks=[Text(text=head), *([Grid(table=table)] if rows else [])])
        )
    return sections


def _calibrated(name: str, known: Calibration, folds: Sequence[Path], plan: Plan) -> list[Any]:
    too = "more" if known.temperature > 1 else "less"
    sentence = (
        f"Of {known.cases} cases predicted out of fold by {name}. The networks are {too} sure than they are right: their logits have to be "
        f"divided by {known.temperature:.2f}. That changes the calibration error near structures from {known.before.ece:.3f} to "
        f"{known.after.ece:.3f} (ECE, 0 is perfect) and the Brier score from {known.before.brier:.3f} to {known.after.brier:.3f}. "
        "Label maps stay as they are."
    )
    blocks: list[Any] = [Text(text=sentence)]
    plots = [
        drawings.Square(
            title="How often a network is right, by how sure it is", across="probability", upright="share of voxels that are right",
            lines={"as the network says": _points(known.before.curve),
                   f"at temperature {known.temperature:.2f}": _points(known.after.curve)},
        )
    ]  # fmt: skip
    counts, dice = read_counts(folds)
    colours = {label: colour_of(members[0] if members else index + 1) for index, (label, members) in enumerate(plan.labels.scored)}
    dots = {}
    for label, line in known.labels.items():
        pairs = {case: calibration.pairs_of(label, {case: of_case}, dice, known.temperature) for case, of_case in counts.items()}
        dots[label, colours[label]] = [(line.true(e), true, f"{case}: {label}") for case, found in pairs.items() for e, true in found]
    values = [value for points in dots.values() for x, y, _ in points for value in (x, y)]
    if values:
        low = min(0.9, math.floor(10 * min(values)) / 10)
        plots.append(drawings.Square(title="Dice of each case, as expected and as it is", across="expected Dice", upright="true Dice",
                                     low=low, dots=dots))  # fmt: skip
    caption = (
        "Left: on the dashed line a network is right as often as it says. "
        "Right: each dot is a case; on the dashed line the expected Dice is true."
    )
    blocks.append(Drawing(svg=drawings.squares(plots), caption=caption))
    rows = tuple(
        (label, str(line.cases), f"{line.slope:.2f}", f"{line.intercept:.2f}", "-" if line.error is None else f"{line.error:.3f}")
        for label, line in known.labels.items()
    )
    columns = ("label", "cases", "slope", "intercept", "error (sd)")
    blocks.append(Grid(table=Table(text="", columns=columns, rows=rows, figures=True)))
    few = [label for label, line in known.labels.items() if line.cases < calibration.ENOUGH]
    limit = known.review_below
    rules = [
        "The expected Dice of a new scan is that which the probabilities promise, on the line of slope and intercept of its label.",
        *([f"Fewer than {calibration.ENOUGH} cases: the mean is expected for every scan ({', '.join(few)})."] if few else []),
        *([f"predict asks for a review where the mean expected Dice is below {limit:.2f}."] if limit is not None else []),
        f"predict asks for a review where the folds agree with their mean by a Dice of less than {known.agreement_below:.2f}.",
        *([f"predict asks for a review where one of these is not found: {', '.join(known.always)}."] if known.always else []),
    ]
    blocks.append(Items(items=rules, head="How predict uses this"))
    return blocks


def _points(curve: Sequence[CurvePoint]) -> list[tuple[float, float]]:
    return [(point.confidence, point.accuracy) for point in curve]
