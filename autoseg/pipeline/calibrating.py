"""Calibration files: the counts of each validated case, and calibration.json with what they say about each configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from autoseg import calibration, files, schema
from autoseg.calibration import Calibration, CaseCounts
from autoseg.checksums import checked, with_checksum
from autoseg.errors import InputError
from autoseg.pipeline.records import read_summary
from autoseg.pipeline.reporter import Reporter
from autoseg.prediction import Model
from autoseg.sharing import DISK, Stored
from autoseg.sharing.stored import read_json
from autoseg.version import __version__
from autoseg.workspace import Run, Workspace

Dice = dict[str, dict[str, float | None]]  # case -> label -> Dice


def write_counts(run: Run, case: str, counts: CaseCounts) -> None:
    """Write the counts of a validated case, about 1 kB for each label."""
    files.write_text(run.confidence(case), json.dumps(with_checksum(schema.dump(counts)), separators=(",", ":")))


def read_counts(folds: Sequence[Path], reporter: Reporter | None = None) -> tuple[dict[str, CaseCounts], Dice]:
    """Return the counts and the Dice of all cases that some folds have validated; without those whose counts are not there.

    An earlier version of autoseg wrote no counts.
    """
    counts, dice = {}, {}
    for fold in folds:
        run = Run(root=fold)
        for case in read_summary(run.summary).cases:
            dice[case.case] = {name: scores.get("dice") for name, scores in case.labels.items()}
            if (known := _read_counts(run.confidence(case.case), reporter)) is not None:
                counts[case.case] = known
    return counts, dice


def fold_calibration(run: Run, cases: Sequence[str]) -> dict[str, float] | None:
    """Return the calibration error of a fold as its summary holds it; None where no counts are there."""
    counted = [known for case in cases if (known := _read_counts(run.confidence(case))) is not None]
    if not any(known.voxels for known in counted):
        return None
    found = calibration.reliability(counted)
    return {"ece": found.ece, "brier": found.brier, "temperature": calibration.fit_temperature(counted)}


def calibrate(workspace: Workspace, folds: Mapping[str, Sequence[Path]], reporter: Reporter) -> dict[str, Calibration]:
    """Calibrate every configuration on its validated folds, and write calibration.json.

    Parameters
    ----------
    folds : the folders of the validated folds of each configuration

    Returns
    -------
    the calibration of each configuration whose counts are there
    """
    found = {}
    for name, paths in folds.items():
        if (known := calibration.calibrate(*read_counts(paths, reporter))) is not None:
            found[name] = known
            reporter.say(
                f"{name}: temperature {known.temperature:.2f}; calibration error of a network {known.before.ece:.3f}, "
                f"{known.after.ece:.3f} at that temperature"
            )
    files.write_json(workspace.calibration, with_checksum({"version": __version__, "configurations": schema.dump(found)}))
    return found


def read_calibration(workspace: Workspace, stored: Stored = DISK) -> dict[str, Calibration]:
    """Return the calibration of each configuration; nothing where `select` has not written it yet.

    Raises
    ------
    UnreadableFile, SettingsError : the file is damaged, or was changed since it was written
    """
    file, what, fix = workspace.calibration, "the calibration", f"select again: autoseg select {workspace.root}"
    if not stored.exists(file):
        return {}
    value = checked(read_json(stored, file, fix=fix), file=file, what=what, fix=fix)
    known = value.get("configurations") if isinstance(value, Mapping) else None
    return schema.parse(dict[str, Calibration], known, what=what, fix=fix, file=file)


def calibrated(model: Model, workspace: Workspace) -> Model:
    """Return a model of a workspace with the calibration of each of its configurations."""
    known = read_calibration(workspace, model.stored)
    partners = tuple(replace(one, calibration=known.get(one.configuration.name)) for one in model.partners)
    return replace(model, calibration=known.get(model.configuration.name), partners=partners)


def _read_counts(file: Path, reporter: Reporter | None = None) -> CaseCounts | None:
    """Return the counts in a file; None where it is not there, or damaged, which is reported: nothing but a review depends on it."""
    if not file.exists():
        return None
    what, fix = "the counts of a validated case", "remove the folder it is in and run the training again: its cases are predicted again"
    try:
        value = checked(files.read_json(file, fix=fix), file=file, what=what, fix=fix)
        return schema.parse(CaseCounts, value, what=what, fix=fix, file=file)
    except InputError as error:
        if reporter is not None:
            reporter.say(f"warning: {file} is left out of the calibration: {error.summary}")
        return None
