"""`suspects`: references that the out-of-fold networks contradict with confidence, ranked, each with a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoseg import cases, files, images, pictures, schema, suspects
from autoseg.cases import Case
from autoseg.checksums import checked, with_checksum
from autoseg.errors import AutosegError, MissingPath, UnreadableFile
from autoseg.pipeline.calibrating import read_counts
from autoseg.pipeline.planned import read_dataset, read_plan, require_fit
from autoseg.pipeline.reporter import LoggingReporter, Reporter
from autoseg.pipeline.validating import out_of_fold, shown_configuration, validated_folds
from autoseg.planning.configuration import Plan
from autoseg.tables import Table
from autoseg.version import __version__
from autoseg.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A case whose reference a person should look at."""

    case: str
    label: str  # that is contradicted most
    score: float  # 0 to 1; see `suspects.rank`
    dice: float | None
    expected_dice: float | None
    reasons: tuple[str, ...]
    picture: str | None  # name of a file in the folder; None: the case cannot be read any more


@dataclass(frozen=True, kw_only=True)
class Suspects:
    """What `suspects` wrote into suspects.json."""

    version: str
    configuration: str
    cases: int  # validated ones that were compared
    suspects: tuple[Suspect, ...]  # the most suspect first


def find_suspects(
    root: Path | str | Workspace, *, configuration: str | None = None, most: int = 20, reporter: Reporter | None = None
) -> Suspects:
    """Rank the cases of a workspace by how much their reference is contradicted, and draw the first ones.

    Parameters
    ----------
    root : the workspace
    configuration : whose out-of-fold results are used; by default the selected one, else the one with the most validated cases
    most : cases to list and draw at most

    Returns
    -------
    what suspects/suspects.json in the workspace holds; the pictures are next to it

    Raises
    ------
    MissingPath : no fold is validated yet, or all were by a version that did not count how sure a network is
    UsageError : a configuration without results
    """
    reporter = reporter or LoggingReporter()
    workspace = root if isinstance(root, Workspace) else Workspace(root=Path(root))
    plan, dataset = read_plan(workspace), read_dataset(workspace)
    require_fit(plan, dataset, workspace)
    files.require_writable(workspace.root)
    folds = validated_folds(workspace, plan)
    shown = shown_configuration(workspace, folds, configuration)
    if shown is None:
        raise MissingPath("no fold is trained and validated yet", file=workspace.root, fix=f"train first: autoseg train {workspace.root}")
    counts, dice = read_counts(folds[shown], reporter)
    if not counts:
        raise MissingPath(
            "the validation did not record how sure the networks are", file=folds[shown][0] / "validation",
            found="out-of-fold results of an earlier version",
            fix=f"remove the validation folders and run autoseg train {workspace.root} --configuration {shown} again: it only predicts",
        )  # fmt: skip
    ranked = suspects.rank(counts, dice)[:most]
    predictions, known = out_of_fold(folds[shown]), {case.name: case for case in dataset.cases}
    folder = workspace.suspects
    folder.mkdir(exist_ok=True)
    files.empty_folder(folder)
    found = []
    for place, suspicion in enumerate(ranked, start=1):
        reporter.progress("suspects", place - 1, len(ranked))
        name = f"{place:02d}_{suspicion.case}.png"
        reasons, picture = _looked_at(known.get(suspicion.case), predictions.get(suspicion.case), suspicion, plan)
        if picture is not None:
            files.write_bytes(folder / name, picture)
        found.append(
            schema.rebuild(Suspect, suspicion, reasons=(suspicion.sentence(), *reasons), picture=None if picture is None else name)
        )
    reporter.progress("suspects", len(ranked), len(ranked))
    result = Suspects(version=__version__, configuration=shown, cases=len(counts), suspects=tuple(found))
    files.write_json(folder / "suspects.json", with_checksum(schema.dump(result)))
    return result


def read_suspects(workspace: Workspace) -> Suspects | None:
    """Return what `find_suspects` found; None where it was not called yet.

    Raises
    ------
    UnreadableFile : the file is damaged, or was changed since it was written
    """
    file, what, fix = workspace.suspects / "suspects.json", "the list of suspects", f"make it again: autoseg suspects {workspace.root}"
    if not file.exists():
        return None
    value = checked(files.read_json(file, fix=fix), file=file, what=what, fix=fix)
    return schema.parse(Suspects, value, what=what, fix=fix, file=file, error=UnreadableFile)


def table(found: Suspects) -> Table:
    """Return the suspects as a table, the most suspect first."""
    rows = tuple(
        (str(place), one.case, one.label, f"{one.score:.2f}", _dice(one.dice), _dice(one.expected_dice), "\n".join(one.reasons[1:]))
        for place, one in enumerate(found.suspects, start=1)
    )
    lines = [f"{place}. {one.case}: {'; '.join(one.reasons)}" for place, one in enumerate(found.suspects, start=1)]
    return Table(text="\n".join(lines), columns=("", "case", "label", "score", "Dice", "expected", "what may be wrong"), rows=rows)


def _dice(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _looked_at(case: Case | None, prediction: Path | None, suspicion: suspects.Suspicion, plan: Plan) -> tuple[Sequence[str], bytes | None]:
    """Return what may be wrong with a case in words, and its picture; why that cannot be said where its files are gone."""
    if case is None or prediction is None:
        return ("its prediction or its files are no longer there",), None
    try:
        image = cases.load_image(case, channels=len(plan.channels))
        reference = cases.load_classes(case, plan.labels, like=image)
        predicted = plan.labels.encode(images.read_label(prediction, like=image).array[0])
    except AutosegError as error:
        return (f"it cannot be looked at: {error.summary}",), None
    reasons = suspects.explain(predicted, reference, suspicion.label, plan.labels, spacing=image.spacing, affine=image.affine)
    overlay = pictures.Overlay(title=case.name, image=image.array, prediction=predicted, spacing=image.spacing, reference=reference)
    return reasons, pictures.overlays([overlay], plan.labels)
