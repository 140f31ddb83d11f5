"""autoseg: from a folder of medical scans with reference segmentations to a trained, validated, shippable segmentation model.

>>> import autoseg                                                                            # doctest: +SKIP
>>> workspace = autoseg.plan("Task04_Hippocampus", device="cpu")                              # doctest: +SKIP
>>> autoseg.train(workspace, configuration="3d_fullres", fold=0, time_budget="10m")           # doctest: +SKIP
>>> model = autoseg.load(workspace)                                                           # doctest: +SKIP
>>> segmentation = model.predict("scan.nii.gz")                                               # doctest: +SKIP

Nothing heavy is imported until one of these is called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoseg.version import __version__

if TYPE_CHECKING:
    from autoseg.pipeline.predicting import LoadedModel
    from autoseg.workspace import Workspace

__all__ = ["__version__", "evaluate", "load", "plan", "predict", "train"]


def plan(
    dataset: str | Path | None = None,
    *,
    output: str | Path | None = None,
    fingerprint: str | Path | None = None,
    planner: str | Path = "default",
    device: str = "auto",
    memory: str | int | None = None,
    time_budget: str | float | None = None,
    recipe: str | Path | None = None,
    group_regex: str | None = None,
    exclude: Sequence[str] = (),
    splits: str | Path | None = None,
    seed: int = 0,
    workers: int | None = None,
    overwrite: bool = False,
) -> Workspace:
    """Check, measure and plan a data set: `autoseg plan`.

    Parameters
    ----------
    memory : bytes, or text such as "8G"
    time_budget : seconds, or text such as "10m", that one fold may train

    Raises
    ------
    autoseg.errors.AutosegError : what the user can fix; see `autoseg.errors` for the family
    """
    from autoseg import machine, quantities
    from autoseg.pipeline import preparing

    return preparing.plan(
        None if dataset is None else Path(dataset),
        output=None if output is None else Path(output),
        from_fingerprint=None if fingerprint is None else Path(fingerprint),
        planner=planner,
        device=device,
        memory=machine.parse_memory(memory) if isinstance(memory, str) else memory,
        time_budget=quantities.parse_duration(time_budget),
        recipe=recipe,
        group_regex=group_regex,
        exclude=exclude,
        splits=None if splits is None else Path(splits),
        seed=seed,
        workers=workers,
        overwrite=overwrite,
    )


def train(
    workspace: str | Path | Workspace,
    *,
    configuration: str | None = None,
    fold: int | None = None,
    epochs: int | None = None,
    time_budget: str | float | None = None,
    deterministic: bool = False,
    settings: Mapping[str, Any] | None = None,
    device: str = "auto",
    seed: int = 0,
    workers: int | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Train and validate: `autoseg train`. Resumes what was interrupted.

    The command also sets OMP_WAIT_POLICY=passive before torch is imported and calls `autoseg.resources.keep_freed_memory`; here both
    are left to the caller, whose process it is.

    Returns
    -------
    the summary of the validation of each fold, by "configuration/fold"

    Raises
    ------
    autoseg.errors.AutosegError : what the user can fix
    """
    from autoseg import quantities
    from autoseg.pipeline import training

    return training.train(
        workspace,
        configuration=configuration,
        fold=fold,
        epochs=epochs,
        time_budget=quantities.parse_duration(time_budget),
        deterministic=deterministic,
        settings=settings,
        device=device,
        seed=seed,
        workers=workers,
        overwrite=overwrite,
    )


def load(model: str | Path | Workspace, *, configuration: str | None = None, fold: int | None = None, device: str = "auto") -> LoadedModel:
    """Open a trained model and keep it warm: its `predict` works in this process, without temporary files.

    Raises
    ------
    autoseg.errors.ModelError : no such fold, or a damaged model
    """
    from autoseg.pipeline import predicting

    return predicting.load(model, configuration=configuration, fold=fold, device=device)


def predict(model: str | Path | Workspace, inputs: str | Path | Sequence[str | Path], output: str | Path, **options: Any) -> dict[str, Any]:
    """Segment files: `autoseg predict`, with its options as keyword arguments."""
    from autoseg.pipeline import predicting

    given = [inputs] if isinstance(inputs, (str, Path)) else list(inputs)
    return predicting.predict(model, given, output, **options)


def evaluate(
    predictions: str | Path,
    references: str | Path,
    *,
    output: str | Path | None = None,
    labels: str | Path | None = None,
    metrics: str | Sequence[str] | None = None,
    tolerance: float | Mapping[str, float] = 2.0,
    workers: int | None = None,
) -> dict[str, Any]:
    """Compare label maps with references: `autoseg evaluate`.

    Parameters
    ----------
    predictions, references : two label maps, or two folders of label maps with equal names
    output : file for the summary, FILE.json; FILE.csv with one row per case and label is written next to it
    labels : JSON file with the names of the labels: plan.json or dataset.json; by default prediction.json next to the predictions
    metrics : "quick", "all" or names such as "dice,nsd"; by default all, unless the scans are large
    tolerance : mm, of the surface Dice (NSD): one for all labels, or one per label name (the others have 2 mm)
    workers : processes; None: as many as cores and memory allow; 0: none, in this process

    Returns
    -------
    the summary, as in summary.json

    Raises
    ------
    autoseg.errors.AutosegError : a path, file, metric or label at fault; the message says what to do
    """
    from autoseg.pipeline import evaluating

    return evaluating.evaluate(predictions, references, output=output, labels=labels, metrics=metrics, tolerance=tolerance, workers=workers)
