"""`predict`: from a trained model and new scans to label maps on their own grids."""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from autoseg import cases, files, images, machine, postprocessing, prediction, threads
from autoseg.cases import Case
from autoseg.checksums import is_unchanged
from autoseg.colours import colour_tables, segments_of
from autoseg.errors import AutosegError, DiskFull, NotEnough, UnreadableFile, naming, short_of_space
from autoseg.labels import Labels
from autoseg.pipeline.loading import open_with_rules
from autoseg.pipeline.maps import Maps
from autoseg.pipeline.records import FAILED, Record, current_state, file_state, report_failures
from autoseg.pipeline.reporter import LoggingReporter, Reporter
from autoseg.pipeline.reviewing import say_reviews, tempered, verdict_facts
from autoseg.pipeline.targets import is_one_file, refuse_to_replace, targets_of
from autoseg.prediction import Model
from autoseg.prediction.checks import unusual_volumes
from autoseg.quantities import format_bytes, format_shape
from autoseg.resources import free_memory, resident_memory
from autoseg.shards import Shard
from autoseg.sharing.stored import read_json
from autoseg.workspace import Workspace


def predict(
    model: Path | str | Workspace | Model,
    inputs: Sequence[Path | str],
    output: Path | str,
    *,
    configuration: str | None = None,
    fold: int | None = None,
    tta: bool = True,
    probabilities: bool = False,
    uncertainty: bool = False,
    max_memory: int | None = None,
    postprocess: bool = True,
    colours: bool = False,
    dicom: Literal["binary", "labelmap", "rtstruct"] | None = None,
    verify: Path | None = None,
    device: str = "auto",
    overwrite: bool = False,
    shard: Shard | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Segment scans; each result is on exactly the grid of its input, with the label values of the training set.

    Parameters
    ----------
    model : a workspace, a model file, or an opened model
    inputs : files, or one folder; several channels by the suffixes _0000, _0001, ...
    output : a file where there is one input and the name has an image suffix; else a folder
    configuration : one, or several joined by "+": the mean of their probabilities; by default what `select` chose
    fold : one fold of the cross-validation; by default the mean of all that are trained
    probabilities : also write `NAME_probabilities.nii.gz`, one volume per label or region, float32
    uncertainty : also write `NAME_uncertainty.nii.gz`: 0 where the model is sure, 1 where all labels are equally likely; in steps of 1/255
    max_memory : bytes that this process shall not exceed; by default what it holds and 80 % of what is free
    colours : also write the names and colours of the labels as ITK-SNAP, FSLeyes and FreeSurfer read them, once per folder
    dicom : of DICOM series, which object is written: SEG of one type or the other, or contours; by default "binary" for one file .dcm,
        and label maps in NIfTI for a folder
    verify : of a model file: the `allowed_signers` file with those of whom one must have signed it
    overwrite : replace results that are there, also files that no earlier prediction made
    shard : only this part of the cases; prediction.json and failed.csv are written by the same command without it, which also does
        whatever is missing

    Returns
    -------
    the record that is also written next to the results: per case the files, seconds and warnings

    Raises
    ------
    SomeCasesFailed : finished, and failed.csv next to the results names case, stage and reason of the rest
    ModelError, MissingPath, MissingChannel : nothing was done
    UsageError : a result would replace a scan, or a file that no earlier prediction made; nothing was done
    """
    reporter = reporter or LoggingReporter()
    opened = model if isinstance(model, Model) else open_with_rules(model, configuration, fold, device, verify)
    for note in opened.notes:
        reporter.say(note)
    given = cases.find_inputs([Path(path) for path in inputs], channels=[channel.name for channel in opened.plan.channels], shard=shard)
    found = given.cases
    for note in (*given.notes, *_channels_taken_for_cases(found, opened)):
        reporter.say(note)
    rules = opened.rules if postprocess else None
    if postprocess and not isinstance(model, Model):
        _note_edited_rules(model if isinstance(model, Workspace) else Workspace(root=Path(model)), opened, reporter)
    options = _Options(
        rules=rules, tta=tta, probabilities=probabilities, uncertainty=uncertainty, max_memory=max_memory, dicom=dicom or "binary"
    )
    record = _new_record(opened, Path(output), found, options, dicom=dicom, shard=shard)
    targets = targets_of(found, Path(output), single=record.single, dicom=dicom is not None)
    files.require_writable(record.folder)
    files.sweep(record.folder)
    earlier = record.read()
    if not overwrite:
        refuse_to_replace(targets, record)
    record.begin(targets.values())
    reporter.say(f"{len(found)} to segment with {opened.describe()}")
    try:
        failures = _predict_cases(opened, found, targets, {} if overwrite else earlier, record, options, reporter)
    except BaseException as error:
        if isinstance(error, DiskFull):
            error.details["kept"] = f"{len(record.cases)} of {len(found)} results"
        with contextlib.suppress(DiskFull):  # the lines say it all
            record.write()
        raise
    record.write()
    if colours:
        _write_colours(opened.plan.labels, record.folder)
    failures += [(problem.case or "", "read", problem) for problem in given.problems]
    report_failures(None if shard is not None else record.folder / FAILED, failures, len(found) + len(given.problems))
    reporter.say(f"{len(record.cases)} segmented; results in {Path(output)}")
    say_reviews(record, reporter)
    return record.to_json()


def _write_colours(labels: Labels, folder: Path) -> None:
    for name, text in colour_tables(labels).items():
        files.write_text(folder / name, text)


def _new_record(
    opened: Model, output: Path, found: Sequence[Case], options: _Options, *, dicom: str | None, shard: Shard | None
) -> Record:  # fmt: skip
    rules = options.rules
    return Record(
        output=output,
        single=is_one_file(output, found),
        settings={
            "model": opened.identity,
            "tta": options.tta,
            "probabilities": options.probabilities,
            "uncertainty": options.uncertainty,
            "postprocessing": None if rules is None else list(rules.sentences()),
            **({} if dicom is None else {"dicom": dicom}),
        },
        labels=opened.plan.labels,
        shard=shard,
        digest=opened.digest,
    )


@dataclass(frozen=True, kw_only=True)
class _Options:
    """How every case is predicted, and what is written."""

    rules: postprocessing.PostprocessingRules | None
    tta: bool
    probabilities: bool
    uncertainty: bool
    max_memory: int | None
    dicom: Literal["binary", "labelmap", "rtstruct"]


def _predict_cases(
    model: Model,
    found: Sequence[Case],
    targets: Mapping[str, Path],
    earlier: Mapping[str, dict[str, Any]],
    record: Record,
    options: _Options,
    reporter: Reporter,
) -> list[tuple[str, str, AutosegError]]:
    """Predict all cases whose result is not there from an earlier command; return name, stage and error of those that failed."""
    failures = []
    for index, case in enumerate(found):
        reporter.progress("predict", index, len(found))
        target = targets[case.name]
        kept = _current_facts(earlier.get(case.name), case, target, record)
        if kept is not None:
            record.keep(case.name, kept, earlier=earlier[case.name])
            continue
        with threads.choosing(reporter.say):
            done = _predict_case(model, case, target, options)
        if isinstance(done, _Failed):
            failures.append((case.name, done.stage, done.error))
            record.fail(case.name, done.stage, done.error)
            reporter.say(f"warning: {case.name} failed at {done.stage}: {done.error.summary}")
            continue
        for warning in done["warnings"]:
            reporter.say(f"warning: {case.name}: {warning}")
        record.keep(case.name, done)
        reporter.progress("predict", index + 1, len(found))
    return failures


def _note_edited_rules(workspace: Workspace, model: Model, reporter: Reporter) -> None:
    """Report rules that are not those that were chosen: a user may write their own."""
    file = workspace.postprocessing
    if model.stored.exists(file) and is_unchanged(read_json(model.stored, file, fix="choose the rules again: autoseg select")) is False:
        reporter.say(f"warning: {file} was changed since autoseg select wrote it; its rules are used as they are now")


@dataclass(frozen=True)
class _Failed:
    """A case without a result."""

    stage: str
    error: AutosegError


def _predict_case(model: Model, case: Case, target: Path, options: _Options) -> dict[str, Any] | _Failed:
    """Read, segment and write one case; what goes wrong with it stays with it."""
    plan, stage = model.plan, "read"
    try:
        started = time.perf_counter()
        key = file_state(case.images)
        if options.max_memory is not None:
            _require_memory(case, options.max_memory)
        image = cases.load_image(case, channels=len(plan.channels))
        read = time.perf_counter() - started
        stage = "segment"
        with contextlib.ExitStack() as until_written:
            scratch = until_written.enter_context(files.temporary_folder(target.parent)) if options.probabilities else None
            maps = Maps(image, plan.labels, scratch=scratch, uncertainty=options.uncertainty, tempered=partial(tempered, model=model))
            receive = maps.receive if options.probabilities or options.uncertainty else None
            with naming(case.images[0]):
                result = prediction.segment(model, image, tta=options.tta, receive=receive, max_memory=options.max_memory)
            classes = result.classes
            if options.rules is not None:
                classes = postprocessing.apply(classes, options.rules, plan.labels, image.spacing)
            stage = "write"
            started = time.perf_counter()
            maps.write(target)
            values = plan.labels.decode(classes)
            made_by = images.DicomObject(form=options.dicom, model=f"{plan.name} {model.name}", identity=model.digest or model.identity)
            # last: where it is, the others are
            images.write_label(target, values, like=image, segments=segments_of(plan.labels), dicom=made_by)
        seconds = {"read": read, **result.seconds, "write": time.perf_counter() - started}
    except DiskFull:
        raise  # of every case that would follow as well
    except AutosegError as error:
        return _Failed(stage, error)
    except (OSError, MemoryError, RuntimeError) as error:
        return _Failed(stage, _fault_of_case(error, case))
    volumes = _volumes(classes, plan.labels)
    return {
        "file": str(target),
        "input": key,
        "result": file_state([target]),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "warnings": [*image.notes, *result.warnings, *unusual_volumes(volumes, image.spacing, model.fingerprint)],
        "voxels": volumes,
        **verdict_facts(model, result.opinions),
    }


_BYTES_PER_VOXEL = 9  # of a scan of 16 bits while it is normalised: as read, as float32, a mask, and the label map


def _require_memory(case: Case, limit: int) -> None:
    """Raise if not even reading and normalising a scan fits into a limit of memory.

    Raises
    ------
    NotEnough : it does not
    """
    shape = images.read_header(case.images[0]).shape
    needed = resident_memory() + math.prod(shape) * (_BYTES_PER_VOXEL + 2 * (len(case.images) - 1))
    if needed > limit:
        raise NotEnough(
            "the scan does not fit into the memory that predicting may use",
            file=case.images[0],
            found=f"{format_shape(shape)} voxels, which need {format_bytes(needed)} to be read and normalised",
            expected=f"at most {format_bytes(limit)}, by --max-memory",
            fix="allow more with --max-memory, or crop the scan",
        )


def _fault_of_case(error: Exception, case: Case) -> AutosegError:
    """Return the error of one case for one of Python's or PyTorch's; what is a defect, or ends every case, is raised.

    Raises
    ------
    DiskFull : the disk is full
    """
    short = short_of_space(error)
    if isinstance(short, DiskFull):
        raise short from error
    if short is not None:
        machine.release()
        shape = "x".join(map(str, images.read_header(case.images[0]).shape))
        return NotEnough(
            "the scan is too large for the memory there is",
            file=case.images[0],
            found=f"{shape} voxels; {free_memory() / 1e9:.1f} GB free; {short.found or error}",
            fix="run the same command on a machine with more memory, or crop the scan; the other scans are segmented all the same",
        )
    if isinstance(error, OSError):
        return UnreadableFile("the file cannot be read or written", file=error.filename, found=error.strerror, fix="check path and rights")
    raise error


def _current_facts(facts: Mapping[str, Any] | None, case: Case, target: Path, record: Record) -> dict[str, Any] | None:
    """Return what is recorded if the result there is of this scan, this model and these settings, untouched since; else None."""
    if facts is None or facts.get("settings") != record.settings or Path(str(facts.get("file"))).name != target.name:
        return None
    if not target.exists() or not all(path.exists() for path in case.images):
        return None
    result = current_state(facts.get("result"), [target])
    scan = current_state(facts.get("input"), case.images) if result is not None else None
    return None if scan is None else {**facts, "file": str(target), "input": scan, "result": result}


def _channels_taken_for_cases(found: Sequence[Case], model: Model) -> list[str]:
    """Return warnings: files of one name with channel suffixes, given to a model of one channel, are probably channels."""
    if len(model.plan.channels) > 1:
        return []
    stems = Counter(case.name[:-5] for case in found if re.fullmatch(r".+_\d{4}", case.name))
    return [
        f"warning: {count} files of '{stem}' look like its channels, but the model has one channel: each is segmented by itself"
        for stem, count in stems.items()
        if count > 1
    ]


def _volumes(classes: NDArray[Any], labels: Labels) -> dict[str, int]:
    counts = np.zeros(labels.class_count, dtype=np.int64)
    for plane in classes:  # bincount makes 8 bytes of each voxel
        counts += np.bincount(plane.reshape(-1), minlength=labels.class_count)
    return {label.name: int(counts[index + 1]) for index, label in enumerate(labels.foreground)}
