"""Cases become one `Fingerprint`: shapes, spacings, intensity statistics. No images are needed afterwards to plan.

Each case is read once, in a worker, and reduced to a few thousand numbers; the parent never holds an image. Every case weighs
the same in the intensities, however large its structures are. Nothing is drawn at random: the same files give the same
fingerprint, whatever the number of workers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg import files, images, schema
from autoseg.cases import Case, Channel, Dataset, load_classes, load_image
from autoseg.cases.memory import reading_bytes
from autoseg.checksums import checked, without_checksum
from autoseg.errors import AutosegError, FaultyCases, SettingsError, UnreadableFile, naming
from autoseg.geometry import Shape, Spacing, nonzero_box
from autoseg.labels import Labels, LabelsRecord
from autoseg.looks import FEWEST, Familiar, Look, measure
from autoseg.version import __version__
from autoseg.workers import map_cases

FINGERPRINT_FORMAT = 1
POINTS = 4096  # of the curve that a case's intensities are reduced to: percentiles to within 0.025
MOST_SORTED = 4_000_000  # values that are sorted for it; of more, every k-th is taken

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class ChannelIntensities:
    """Foreground intensities of one channel over the data set."""

    mean: float
    median: float
    std: float
    min: float
    max: float
    percentile_00_5: float
    percentile_99_5: float


@dataclass(frozen=True, kw_only=True)
class CaseFacts:
    """What the fingerprint keeps of one case."""

    name: str = schema.key("case")
    spacing: Spacing  # mm, canonical (z, y, x)
    shape: Shape  # voxels, before the crop
    shape_after_crop: Shape  # voxels, of the box around everything that is not zero
    label_voxels: Mapping[str, int]  # label name -> voxels in this case
    files: Mapping[str, str]  # file, from the data set's folder -> SHA-256 of its bytes
    looks: tuple[Look | None, ...] = ()  # per channel; empty where an earlier version measured


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """The data set, measured."""

    name: str
    channels: tuple[Channel, ...]
    labels: Labels
    cases: tuple[CaseFacts, ...]
    intensities: tuple[ChannelIntensities, ...]  # per channel
    relative_size_after_crop: float  # median over cases of voxels after / before the crop
    version: str = ""

    @property
    def label_voxels(self) -> dict[str, int]:
        """Voxels of each label over all cases."""
        return {name: sum(case.label_voxels.get(name, 0) for case in self.cases) for name in self.labels.names}

    @property
    def presence(self) -> dict[str, frozenset[str]]:
        """The foreground labels that occur in each case, by case."""
        names = [label.name for label in self.labels.foreground]
        return {case.name: frozenset(name for name in names if case.label_voxels.get(name, 0)) for case in self.cases}

    @functools.cached_property
    def familiar(self) -> tuple[Familiar | None, ...]:
        """How each channel usually looks; None where too few cases say so."""
        found: list[Familiar | None] = []
        for channel in range(len(self.channels)):
            known = [(look, case) for case in self.cases if channel < len(case.looks) and (look := case.looks[channel]) is not None]
            extents = np.array([np.multiply(case.shape, case.spacing) for _, case in known])
            found.append(Familiar([look for look, _ in known], extents) if len(known) >= FEWEST else None)
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for fingerprint.json."""
        return {
            "format": FINGERPRINT_FORMAT,
            "version": self.version,
            "name": self.name,
            "channels": schema.dump(self.channels),
            **self.labels.to_json(),
            "relative_size_after_crop": self.relative_size_after_crop,
            "label_voxels": self.label_voxels,
            "intensities": schema.dump(self.intensities),
            "cases": [{key: item for key, item in case.items() if key != "looks" or item} for case in schema.dump(self.cases)],
        }

    @staticmethod
    def from_json(value: Any) -> Fingerprint:
        """Return the inverse of `to_json`.

        Raises
        ------
        SettingsError : written by another format version, or a key is missing, unknown or holds something else than it should
        LabelError : labels that cannot work
        """
        fix = "plan again from the images"
        record = schema.parse(_FingerprintRecord, without_checksum(value), what="the fingerprint", fix=fix, format=FINGERPRINT_FORMAT)
        if len(record.intensities) != len(record.channels):
            raise SettingsError(
                "the fingerprint cannot be understood",
                found=f"intensities of {len(record.intensities)} channels",
                expected=f"of {len(record.channels)}",
                fix=fix,
            )
        return schema.rebuild(Fingerprint, record, labels=record.scheme())


@dataclass(frozen=True, kw_only=True)
class _FingerprintRecord(LabelsRecord):
    """fingerprint.json."""

    format: int
    version: str = ""
    name: str
    channels: tuple[Channel, ...]
    relative_size_after_crop: float
    label_voxels: Mapping[str, int] = field(default_factory=dict)  # the sum over the cases, for a person to read
    intensities: tuple[ChannelIntensities, ...]
    cases: tuple[CaseFacts, ...]


def read_fingerprint(path: Path) -> Fingerprint:
    """Return the fingerprint in a file.

    Raises
    ------
    MissingPath, UnreadableFile, SettingsError : it is missing, damaged, or was changed since it was measured
    """
    return parse_fingerprint(files.read_json(path), file=path)


def parse_fingerprint(value: Any, *, file: Path) -> Fingerprint:
    """Return the fingerprint that a JSON file holds.

    Raises
    ------
    UnreadableFile, SettingsError : it is damaged, or was changed since it was measured
    """
    with naming(file):
        measured = Fingerprint.from_json(value)
    fix = 'plan again from the images; a file that was changed on purpose is read once its line "checksum" is removed'
    checked(value, file=file, what="the fingerprint", fix=fix)
    return measured


def extract(dataset: Dataset, *, workers: int | None = None, progress: Progress | None = None) -> Fingerprint:
    """Measure every case of a data set.

    Parameters
    ----------
    workers : processes; None: as many as cores and memory allow; 0: none
    progress : called with (done, total) after each case

    Raises
    ------
    FaultyCases : cases that could not be read or measured, all of them
    """
    work = partial(_measure, labels=dataset.labels, channels=len(dataset.channels), root=dataset.root)
    outcomes = map_cases(
        work,
        dataset.cases,
        names=[case.name for case in dataset.cases],
        stage="fingerprint",
        workers=workers,
        peak_bytes=[reading_bytes(case, len(dataset.channels)) for case in dataset.cases],
        progress=progress,
    )
    measured: dict[str, _Measured] = {}
    errors: list[AutosegError] = []
    for outcome in outcomes:
        if outcome.value is None:
            assert outcome.failure is not None
            errors.append(outcome.failure.as_error())
        else:
            measured[outcome.name] = outcome.value
    if errors:
        raise FaultyCases(errors, fix="fix these cases, or leave them out with --exclude")
    ordered = [measured[case.name] for case in dataset.cases]
    return Fingerprint(
        version=__version__,
        name=dataset.name,
        channels=dataset.channels,
        labels=dataset.labels,
        cases=tuple(one.facts for one in ordered),
        intensities=tuple(
            pool_intensities([one.curves[channel] for one in ordered if one.curves]) for channel in range(len(dataset.channels))
        ),
        relative_size_after_crop=float(np.median([one.left for one in ordered])) if ordered else 1.0,
    )


def outdated(fingerprint: Fingerprint, dataset: Dataset, *, progress: Progress | None = None) -> tuple[str, ...]:
    """Return how a data set differs from what was measured, in words; empty where the fingerprint still holds.

    Cases are compared by the bytes of their files, so a fingerprint survives a move of the folder and a new time stamp.

    Parameters
    ----------
    progress : called with (done, total) after each case
    """
    if fingerprint.channels != dataset.channels:
        return ("the channels have changed",)
    if fingerprint.labels != dataset.labels:
        return ("the labels have changed",)
    known = {case.name: case for case in fingerprint.cases}
    found = []
    for done, case in enumerate(dataset.cases, start=1):
        before = known.pop(case.name, None)
        if before is None:
            found.append(f"case '{case.name}' is new")
        elif dict(before.files) != _hashes(case, dataset.root):
            found.append(f"the files of case '{case.name}' have changed")
        if progress is not None:
            progress(done, len(dataset.cases))
    return tuple(found + [f"case '{name}' is gone" for name in known])


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The foreground intensities of one channel of one case: exact moments, and sorted points that stand for them all."""

    mean: float
    variance: float
    min: float
    max: float
    points: NDArray[np.float64]  # ascending, evenly spaced in rank; every value where there are no more than `POINTS`


def summarise(values: NDArray[Any]) -> Curve:
    """Reduce intensities `(n,)`, at least one and all finite, to a curve."""
    wide = values.astype(np.float64, copy=False)
    step = -(-values.size // MOST_SORTED)
    ordered = np.sort(values[::step])
    if ordered.size > POINTS:
        ranks = np.linspace(0, ordered.size - 1, POINTS)
        low = np.floor(ranks).astype(np.int64)
        high = np.minimum(low + 1, ordered.size - 1)
        points = ordered[low] + (ordered[high].astype(np.float64) - ordered[low]) * (ranks - low)
    else:
        points = ordered.astype(np.float64)
    return Curve(mean=float(wide.mean()), variance=float(wide.var()), min=float(wide.min()), max=float(wide.max()), points=points)


def pool_intensities(curves: Sequence[Curve]) -> ChannelIntensities:
    """Return statistics over cases that each weigh the same; all zero, with a deviation of one, where no case has foreground.

    Source: nnU-Net 2.8.1, DatasetFingerprintExtractor, which draws equally many voxels of each case with replacement: these are
    the figures that its draws scatter around, and exactly its figures where no draw is needed (a single case).
    """
    if not curves:
        return ChannelIntensities(mean=0.0, median=0.0, std=1.0, min=0.0, max=0.0, percentile_00_5=0.0, percentile_99_5=0.0)
    mean = float(np.mean([curve.mean for curve in curves]))
    variance = float(np.mean([curve.variance + (curve.mean - mean) ** 2 for curve in curves]))
    points = np.concatenate([curve.points for curve in curves])
    weights = np.concatenate([np.full(curve.points.size, 1 / curve.points.size) for curve in curves])
    order = np.argsort(points, kind="stable")
    points, weights = points[order], weights[order]
    below = np.cumsum(weights) - weights  # for equal weights this is the rule of numpy.percentile
    ranks = below / below[-1] if below[-1] > 0 else below
    at = {share: float(np.interp(share, ranks, points)) for share in (0.005, 0.5, 0.995)}
    return ChannelIntensities(
        mean=mean,
        median=at[0.5],
        std=variance**0.5,
        min=min(curve.min for curve in curves),
        max=max(curve.max for curve in curves),
        percentile_00_5=at[0.005],
        percentile_99_5=at[0.995],
    )


@dataclass(frozen=True, kw_only=True)
class _Measured:
    facts: CaseFacts
    left: float  # share of the voxels that the crop leaves
    curves: tuple[Curve, ...]  # per channel; empty where the case has no foreground


def _measure(case: Case, *, labels: Labels, channels: int, root: Path) -> _Measured:
    """Measure one case, in a worker."""
    image = load_image(case, channels=channels)
    classes = load_classes(case, labels, like=image)
    box, _ = nonzero_box(image.array, fill=False)
    inside = classes[box.slices]
    foreground = (inside > 0) & (inside < labels.class_count)  # unannotated voxels do not count as foreground
    counts = np.bincount(classes.ravel(), minlength=labels.class_count)
    curves = []
    if foreground.any():
        for channel in image.array:
            values = channel[box.slices][foreground]
            if not np.isfinite(values).all():
                raise UnreadableFile(
                    "intensities inside the labels are not finite",
                    case=case.name,
                    file=case.images[0],
                    found=f"{int((~np.isfinite(values)).sum())} voxels with NaN or infinity",
                    expected="finite intensities",
                    fix=f"fix the image, or leave the case out with --exclude {case.name}",
                )
            curves.append(summarise(values))
    return _Measured(
        facts=CaseFacts(
            name=case.name,
            spacing=image.spacing,
            shape=image.shape,
            shape_after_crop=box.shape,
            files=_hashes(case, root),
            looks=tuple(measure(channel) for channel in image.array),
            label_voxels={name: int(counts[index]) for index, name in enumerate(labels.names)},
        ),
        left=float(np.prod(box.shape) / np.prod(image.shape)),
        curves=tuple(curves),
    )


def _hashes(case: Case, root: Path) -> dict[str, str]:
    names = {path: str(path.relative_to(root)) if path.is_relative_to(root) else str(path) for path in case.files}
    return {name: images.hash_image(path) for path, name in names.items()}
