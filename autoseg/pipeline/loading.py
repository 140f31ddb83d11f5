"""A trained model kept in memory: for use from Python, one scan at a time."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg import images, postprocessing, prediction
from autoseg.errors import UsageError
from autoseg.images import Image
from autoseg.pipeline.calibrating import calibrated
from autoseg.pipeline.records import read_rules
from autoseg.pipeline.reporter import LoggingReporter, Reporter
from autoseg.prediction import Model
from autoseg.prediction.checks import unusual_volumes
from autoseg.workspace import Workspace


def load(
    model: Path | str | Workspace,
    *,
    configuration: str | None = None,
    fold: int | None = None,
    device: str = "auto",
    verify: Path | None = None,
    reporter: Reporter | None = None,
) -> LoadedModel:
    """Open a trained model and keep it warm; of a model file, the digest and what its card does not state are reported.

    Raises
    ------
    ModelError : no such fold, or a damaged model
    """
    opened, reporter = open_with_rules(model, configuration, fold, device, verify), reporter or LoggingReporter()
    if opened.digest:
        reporter.say(opened.describe())
    for note in opened.notes:
        reporter.say(note)
    return LoadedModel(model=opened)


def open_with_rules(model: Path | str | Workspace, configuration: str | None, fold: int | None, device: str, verify: Path | None) -> Model:
    """Open a workspace or a model file, with the post-processing rules that were chosen for it."""
    path = model.root if isinstance(model, Workspace) else Path(model)
    folds = None if fold is None else (fold,)
    opened = prediction.open_model(path, configuration=configuration, folds=folds, device=device, verify=verify)
    workspace = Workspace(root=path)
    return calibrated(replace(opened, rules=read_rules(workspace, opened.stored).get(opened.name)), workspace)


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A trained model in memory; every call of `predict` works in this process and reads no file but the scan."""

    model: Model

    def predict(
        self, scan: Any, affine: NDArray[Any] | None = None, *, tta: bool = True, postprocess: bool = True
    ) -> NDArray[np.integer[Any]]:
        """Return the label values of one scan, on the scan's own grid and in its own axis order.

        Parameters
        ----------
        scan : a file (or one file per channel), a nibabel image, or an array `(x, y, z)` or `(x, y, z, c)` as nibabel gives it
        affine : voxel-to-world, 4 x 4, of an array; not for the others

        Returns
        -------
        an array `(x, y, z)` of label values, indexed as nibabel indexes the scan; what is unusual about it is a `UserWarning`

        Raises
        ------
        UnreadableFile, MissingChannel, GeometryError : the scan is at fault
        """
        image = _scan(scan, affine, len(self.model.plan.channels))
        result = prediction.segment(self.model, image, tta=tta)
        classes = result.classes
        if postprocess and self.model.rules is not None:
            classes = postprocessing.apply(classes, self.model.rules, self.model.plan.labels, image.spacing)
        counts = np.bincount(classes.reshape(-1), minlength=self.model.plan.labels.class_count)
        voxels = {label.name: int(counts[index + 1]) for index, label in enumerate(self.model.plan.labels.foreground)}
        for sentence in (*result.warnings, *unusual_volumes(voxels, image.spacing, self.model.fingerprint)):
            warnings.warn(sentence, stacklevel=2)
        return images.to_memory(self.model.plan.labels.decode(classes), like=image)


def _scan(scan: Any, affine: NDArray[Any] | None, channels: int) -> Image:
    if isinstance(scan, (str, Path)):
        return images.read_channels([Path(scan)], channels=channels)
    if isinstance(scan, (list, tuple)):
        return images.read_channels([Path(path) for path in scan], channels=channels)
    if affine is None and hasattr(scan, "affine"):
        scan, affine = np.asarray(scan.dataobj), scan.affine
    if affine is None:
        raise UsageError("an array needs its affine", expected="predict(array, affine)", fix="give the 4 x 4 voxel-to-world matrix")
    return images.from_memory(np.asarray(scan), np.asarray(affine), channels=channels)
