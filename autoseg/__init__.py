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
    from autoseg.pipeline.loading import LoadedModel
    from autoseg.workspace import Workspace

__all__ = ["__version__", "evaluate", "export", "load", "plan", "predict", "train"]


def plan(
    dataset: str | Path | None = None,
    *,
    output: str | Path | None = None,
    fingerprint: str | Path | None = None,
    planner: str | Path = "default",
    network: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    device: str = "auto",
    memory: str | int | None = None,
    time_budget: str | float | None = None,
    recipe: str | Path | None = None,
    group_regex: str | None = None,
    exclude: Sequence[str] = (),
    map_labels: Mapping[int, int] | None = None,
    fix_geometry: str | None = None,
    splits: str | Path | None = None,
    seed: int = 0,
    workers: int | None = None,
    probe: bool = False,
    overwrite: bool = False,
) -> Workspace:
    """Check, measure and plan a data set: `autoseg plan`.

    Parameters
    ----------
    dataset : folder of scans with reference segmentations, or a file that lists them; not needed with `fingerprint`
    output : workspace to make; by default NAME-autoseg in the current folder
    fingerprint : a fingerprint.json to plan from, without any image
    planner : name of a preset, a TOML file, or an nnUNetPlans.json
    network : name of a network (`autoseg plan --list-networks`), a TOML file, or "module:callable"; by default the planner's
    settings : constants of the planner to replace, by their dotted names, for instance {"network.attention": "se"}
    device : "auto", "cpu", "cuda", "cuda:N", "mps", or a machine to plan for
    memory : bytes that training may take, or text such as "8G"; by default what the device has free
    time_budget : seconds, or text such as "10m", that one fold may train; by default training runs for the preset's epochs
    recipe : name or TOML file of the data set's layout; by default it is recognized
    group_regex : regular expression whose first group, in a case's name, is the patient; cases of one patient share a fold
    exclude : names of cases to leave out
    map_labels : value in the reference files -> value to read it as
    fix_geometry : "copy-image" or "resample-label", for references on another grid than their scans
    splits : a splits.json of your own; by default five folds are drawn
    seed : of the draw of the folds
    workers : processes; None: as many as cores and memory allow; 0: none, in this process
    probe : measure the speed of the device again, instead of taking what the user's cache folder knows of it
    overwrite : also plan where models trained with another plan, other cases or folds are in the workspace

    Returns
    -------
    the workspace, with dataset.json, check.json, fingerprint.json, plan.json and splits.json

    Raises
    ------
    autoseg.errors.FaultyCases : the check found errors; the message holds all of them, and nothing was written
    autoseg.errors.SettingsError : a setting cannot be used, or trained models do not fit the new plan and `overwrite` is false
    autoseg.errors.AutosegError : anything else that the user can fix; see `autoseg.errors` for the family
    """
    from autoseg import machine, quantities
    from autoseg.pipeline import preparing

    return preparing.plan(
        None if dataset is None else Path(dataset),
        output=None if output is None else Path(output),
        from_fingerprint=None if fingerprint is None else Path(fingerprint),
        planner=planner,
        network=network,
        settings=settings,
        device=device,
        memory=machine.parse_memory(memory) if isinstance(memory, str) else memory,
        time_budget=quantities.parse_duration(time_budget),
        recipe=recipe,
        group_regex=group_regex,
        exclude=exclude,
        map_labels=map_labels,
        fix_geometry=fix_geometry,
        splits=None if splits is None else Path(splits),
        seed=seed,
        workers=workers,
        probe=probe,
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
    tensorboard: bool = False,
) -> dict[str, Any]:
    """Train and validate: `autoseg train`. Resumes what was interrupted.

    The command also sets OMP_WAIT_POLICY=passive before torch is imported and calls `autoseg.resources.keep_freed_memory`; here both
    are left to the caller, whose process it is.

    Parameters
    ----------
    workspace : made by `plan`
    configuration : "2d", "3d_lowres", "3d_fullres", "3d_cascade" or "all"; by default the plan's own 3D one
    fold : number of a fold; None: all of them
    epochs : length of the training of one fold; by default the plan's
    time_budget : seconds, or text such as "10m", for one fold with its validation; instead of `epochs`
    deterministic : make two runs with the same seed equal bit for bit, which takes longer; not with a time budget
    settings : training settings by their dotted names, such as {"optimizer.learning_rate": 0.005}; they replace the plan's
    device : "auto", "cpu", "cuda", "cuda:N" or "mps"
    seed : of the weights, the patches and the augmentation
    workers : processes that load and augment; None: as many as cores and memory allow; 0: none, in this process
    overwrite : begin again where the fold was trained before
    tensorboard : also write TensorBoard's event files

    Returns
    -------
    the summary of the validation of each fold, as in its summary.json, by "configuration/fold"

    Raises
    ------
    autoseg.errors.Interrupted : stopped by a signal; the state is saved, and the same call resumes
    autoseg.errors.TrainingFailed : the loss or the gradients are not finite in too many steps in a row
    autoseg.errors.AutosegError : anything else that the user can fix: the workspace, the data or a setting is at fault
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
        tensorboard=tensorboard,
    )


def export(
    workspace: str | Path | Workspace,
    output: str | Path,
    *,
    configuration: str | None = None,
    fold: int | None = None,
    card: str | Path | None = None,
    key: str | Path | None = None,
    overwrite: bool = False,
) -> str:
    """Write a trained model as one file that can be handed on: `autoseg export`. `load` and `predict` take it like a workspace.

    Parameters
    ----------
    workspace : a workspace with trained folds
    output : the file, FILE.autoseg
    configuration : whose folds are written; by default the selected one
    fold : number of one fold; None: all that are trained
    card : TOML file with the answers for the model card; by default card.toml in the workspace, which is made where it is missing
    key : private SSH key: a signature is written next to the file
    overwrite : replace a file that is there

    Returns
    -------
    the digest of the model: SHA-256 over its members

    Raises
    ------
    autoseg.errors.ModelError, autoseg.errors.PlanMismatch, autoseg.errors.MissingPath : the model cannot be opened
    autoseg.errors.UsageError : another suffix than .autoseg, or the file is there
    """
    from autoseg.pipeline import exporting

    return exporting.export(
        workspace,
        output,
        configuration=configuration,
        fold=fold,
        card=None if card is None else Path(card),
        key=None if key is None else Path(key),
        overwrite=overwrite,
    )


def load(
    model: str | Path | Workspace,
    *,
    configuration: str | None = None,
    fold: int | None = None,
    device: str = "auto",
    verify: str | Path | None = None,
    allow_network: str | None = None,
) -> LoadedModel:
    """Open a trained model and keep it warm: its `predict` works in this process, without temporary files.

    Its `predict(scan, affine=None)` takes a file, one file per channel, a nibabel image, or an array (x, y, z) or (x, y, z, channel)
    with its 4 x 4 affine (voxel to world, mm), and returns the label values as an array of integers (x, y, z) on the scan's own grid.

    Parameters
    ----------
    model : a workspace with trained folds, or a model file
    configuration : whose folds are used, or several joined by "+", whose probabilities are averaged; by default what was selected
    fold : number of one fold; None: the mean of all that are trained
    device : "auto", "cpu", "cuda", "cuda:N" or "mps"
    verify : of a model file: OpenSSH's allowed_signers file with those of whom one must have signed it
    allow_network : "module:callable" of a network of your own that the model may use, from now on in this process

    Returns
    -------
    the model, with the post-processing rules that were chosen for it

    Raises
    ------
    autoseg.errors.ModelError : no such fold, or a damaged model
    autoseg.errors.ModelFileError : a model file that is damaged, was changed, or is not signed as it should be
    autoseg.errors.MissingPath : no workspace there
    """
    from autoseg import extensions
    from autoseg.pipeline import loading

    if allow_network is not None:
        extensions.allow(allow_network)
    signers = None if verify is None else Path(verify)
    return loading.load(model, configuration=configuration, fold=fold, device=device, verify=signers)


def predict(
    model: str | Path | Workspace,
    inputs: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    configuration: str | None = None,
    fold: int | None = None,
    tta: bool = True,
    probabilities: bool = False,
    uncertainty: bool = False,
    postprocess: bool = True,
    verify: str | Path | None = None,
    device: str = "auto",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Segment files: `autoseg predict`. Each result has the grid of its scan and the label values of the training set.

    Parameters
    ----------
    model : a workspace with trained folds, or a model file
    inputs : a file, several files, or a folder; several channels of a case by the suffixes _0000, _0001, ...
    output : a file where there is one input and the name has an image suffix; else a folder
    configuration : whose folds are used, or several joined by "+", whose probabilities are averaged; by default what was selected
    fold : number of one fold; None: the mean of all that are trained
    tta : also predict mirror images (test-time augmentation) where the plan allows mirroring, and take the mean
    probabilities : also write NAME_probabilities.nii.gz, one volume per label or region, 0 to 1
    uncertainty : also write NAME_uncertainty.nii.gz: 0 where the model is sure, 1 where all labels are equally likely
    postprocess : apply the rules that were chosen from out-of-fold results
    verify : of a model file: OpenSSH's allowed_signers file with those of whom one must have signed it
    device : "auto", "cpu", "cuda", "cuda:N" or "mps"
    overwrite : replace results that are there, also files that no earlier prediction made

    Returns
    -------
    the record that is also written next to the results: per case the files, seconds and warnings

    Raises
    ------
    autoseg.errors.SomeCasesFailed : the others are finished; failed.csv next to the results has the case, stage and reason of each failure
    autoseg.errors.ModelError, autoseg.errors.MissingPath, autoseg.errors.MissingChannel : nothing was done
    autoseg.errors.UsageError : a result would replace a scan, or a file that no earlier prediction made; nothing was done
    """
    from autoseg.pipeline import predicting

    return predicting.predict(
        model,
        [inputs] if isinstance(inputs, (str, Path)) else inputs,
        output,
        configuration=configuration,
        fold=fold,
        tta=tta,
        probabilities=probabilities,
        uncertainty=uncertainty,
        postprocess=postprocess,
        verify=None if verify is None else Path(verify),
        device=device,
        overwrite=overwrite,
    )


def evaluate(
    predictions: str | Path,
    references: str | Path,
    *,
    output: str | Path | None = None,
    labels: str | Path | None = None,
    metrics: str | Sequence[str] | None = None,
    tolerance: float | Mapping[str, float] = 2.0,
    by: str | None = None,
    resample: bool = False,
    workers: int | None = None,
) -> dict[str, Any]:
    """Compare label maps with references: `autoseg evaluate`.

    Parameters
    ----------
    predictions, references : two label maps, or two folders of label maps with equal names
    output : file for the summary, FILE.json; FILE.csv with one row per case and label is written next to it
    labels : file with the names of the labels (plan.json, dataset.json or prediction.json), or a data set; by default
        prediction.json next to the predictions
    metrics : "quick", "all" or names such as "dice,nsd"; by default all, unless the scans are large
    tolerance : mm, of the surface Dice (NSD) and the boundary IoU: one for all labels, or one per label name (the others have 2 mm)
    by : also summarize groups of cases: "group" for those of the data set that `labels` names, else a regular expression whose first
        group, in a case's name, is the patient, site or scanner
    resample : compare a prediction on another grid than its reference by the nearest voxel, instead of refusing it
    workers : processes; None: as many as cores and memory allow; 0: none, in this process

    Returns
    -------
    the summary, as in summary.json: "labels" and "mean" with the statistics of each metric (distances in mm, volumes in ml), "cases"
    with the scores of each case, and "settings"; with `by` also "groups"

    Raises
    ------
    autoseg.errors.MissingPath : a file or folder is not there, or no two names agree
    autoseg.errors.UsageError : an unknown metric, or a tolerance for an unknown label
    autoseg.errors.FaultyCases : pairs that cannot be compared, all of them
    """
    from autoseg.pipeline import evaluating

    return evaluating.evaluate(
        predictions,
        references,
        output=output,
        labels=labels,
        metrics=metrics,
        tolerance=tolerance,
        by=by,
        resample=resample,
        workers=workers,
    )
