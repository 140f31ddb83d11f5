"""Out-of-fold predictions of pairs of configurations, for `select`: each case by the two networks that have not seen it.

The cases are predicted again, by all networks in one pass, when pairs are compared. Keeping the probabilities of every validation
would save that time, but would take labels x voxels x 2 bytes of every case and configuration (25 GB for 100 CT scans of 30 million
voxels with 4 labels) on the disk of every user, most of whom never compare pairs.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoseg import cases, evaluation, files, images, locks, machine, prediction, schema
from autoseg.cases import Case, Dataset
from autoseg.errors import InputError
from autoseg.pipeline.evaluating import score, write_summary
from autoseg.pipeline.records import read_summary
from autoseg.pipeline.reporter import Reporter
from autoseg.pipeline.validating import out_of_fold
from autoseg.planning.configuration import Plan
from autoseg.prediction import Member
from autoseg.prediction.model import AND
from autoseg.selection import FEWEST
from autoseg.version import __version__
from autoseg.workspace import Run, Workspace


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two configurations, and where their out-of-fold predictions are."""

    names: tuple[str, str]
    run: Run
    cases: tuple[str, ...]  # that both have predicted out of fold
    folds: tuple[str, ...]  # whose networks predict them

    @property
    def name(self) -> str:
        """As `predict` knows it."""
        return AND.join(self.names)


@dataclass(frozen=True, kw_only=True)
class _Made:
    """One prediction that is there."""

    by: str  # what it was made with
    prediction: str  # hash of the file


@dataclass(frozen=True, kw_only=True)
class _Record:
    """What predicted_with.json of a pair holds."""

    cases: Mapping[str, _Made] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What pairs are predicted from."""

    workspace: Workspace
    plan: Plan
    cases: Mapping[str, Case]
    networks: Mapping[str, Mapping[str, Run]]  # configuration -> case -> the fold that has not seen it
    previous: Mapping[str, Mapping[str, Path]]  # configuration of a second stage -> case -> prediction of the first one
    device: str
    workers: int | None

    @staticmethod
    def of(
        workspace: Workspace, plan: Plan, dataset: Dataset, folds: Mapping[str, Sequence[Path]], device: str, workers: int | None
    ) -> _Work:
        """Return it for the validated folds of each configuration."""
        networks = {name: _networks(paths) for name, paths in folds.items()}
        stages = {name: plan.configuration(name).previous_stage for name in folds}
        previous = {name: out_of_fold(folds.get(stage, ())) for name, stage in stages.items() if stage is not None}
        for name, maps in previous.items():
            networks[name] = {case: run for case, run in networks[name].items() if case in maps}
        return _Work(
            workspace=workspace, plan=plan, cases={case.name: case for case in dataset.cases}, networks=networks, previous=previous,
            device=device, workers=workers)  # fmt: skip

    def pairs(self) -> Iterator[Pair]:
        """Yield every two configurations, with the cases they share."""
        for names in itertools.combinations(self.networks, 2):
            first, second = (self.networks[name] for name in names)
            common = tuple(case for case in self.cases if case in first and case in second)
            runs = sorted({(name, self.networks[name][case].root.name) for name in names for case in common})
            folds = tuple(f"{name}/{fold}" for name, fold in runs)
            yield Pair(names=names, run=Run(root=self.workspace.configuration(AND.join(names))), cases=common, folds=folds)


def compared_pairs(
    workspace: Workspace,
    plan: Plan,
    dataset: Dataset,
    folds: Mapping[str, Sequence[Path]],
    *,
    predict_missing: bool,
    device: str,
    workers: int | None,
    reporter: Reporter,
) -> list[Pair]:
    """Return the pairs of configurations whose out-of-fold predictions are there and scored; predict and score what is missing.

    A killed call goes on where it was: each prediction is written whole, and is made again only where one of its networks has changed.

    Parameters
    ----------
    folds : the validated folds of each configuration
    predict_missing : else pairs of which a prediction is missing are left out, and nothing is written
    """
    work = _Work.of(workspace, plan, dataset, folds, machine.choose_device(device) if predict_missing else "cpu", workers)
    pairs = []
    for pair in work.pairs():
        if len(pair.cases) >= FEWEST:
            pairs.append(pair)
        else:
            reporter.say(f"{pair.name} is not tried: its two configurations have {len(pair.cases)} validated cases in common")
    keys = _Keys(work)
    if not predict_missing:
        return [pair for pair in pairs if not _missing(pair, keys) and _is_scored(pair)]
    with contextlib.ExitStack() as stack:
        for pair in pairs:
            stack.enter_context(locks.exclusive_lock(pair.run.root, doing=f"predicting {pair.name}"))
            files.sweep(pair.run.validation)
        missing = {pair.name: _missing(pair, keys) for pair in pairs}
        _predict(work, [pair for pair in pairs if missing[pair.name]], missing, keys, reporter)
        for pair in pairs:
            if not _is_scored(pair):
                _score(pair, work, reporter)
    return pairs


class _Keys:
    """What a prediction of a case by a pair depends on, as one text each."""

    def __init__(self, work: _Work) -> None:
        self._work = work
        self._weights: dict[Path, str] = {}

    def __call__(self, pair: Pair, case: str) -> str:
        """Return a hash of the version, the weights of both networks and what the first stage of a cascade found."""
        used = [(name, self._weights_of(self._work.networks[name][case])) for name in pair.names]
        first = [files.hash_file(maps[case]) for name in pair.names if (maps := self._work.previous.get(name)) is not None]
        return hashlib.sha256(json.dumps([__version__, used, first]).encode()).hexdigest()[:16]

    def _weights_of(self, run: Run) -> str:
        if run.weights not in self._weights:
            self._weights[run.weights] = files.hash_file(run.weights)
        return self._weights[run.weights]


def _networks(folds: Sequence[Path]) -> dict[str, Run]:
    """Return for each case of validated folds the run that has predicted it out of fold, where its weights are still there."""
    runs = [run for path in folds if (run := Run(root=path)).weights.exists()]
    return {case.case: run for run in runs for case in read_summary(run.summary).cases}


def _target(pair: Pair, case: Case) -> Path:
    return pair.run.validation / f"{case.name}{images.label_suffix(case.images[0])}"


def _read(pair: Pair) -> dict[str, _Made]:
    """Return the predictions that are recorded; none where the record is missing or damaged: then they are made again."""
    with contextlib.suppress(InputError):
        return dict(schema.read(_Record, pair.run.predicted_with, what="the record of a pair", fix="select again").cases)
    return {}


def _missing(pair: Pair, keys: _Keys) -> list[str]:
    """Return the cases without a prediction by the networks there are now."""
    made = _read(pair)
    found = {images.stem_of(path): path for path in pair.run.validation.glob("*") if images.suffix_of(path)}

    def is_there(case: str) -> bool:
        """Whether the prediction of a case is the one that these networks made."""
        return (
            case in made and case in found and made[case].by == keys(pair, case) and files.hash_file(found[case]) == made[case].prediction
        )

    return [case for case in pair.cases if not is_there(case)]


def _predict(work: _Work, pairs: Sequence[Pair], missing: Mapping[str, Sequence[str]], keys: _Keys, reporter: Reporter) -> None:
    """Predict the cases that are missing for some pairs; each network runs once per case, and is loaded once."""
    if not pairs:
        return
    wanted = {case: [pair for pair in pairs if case in missing[pair.name]] for case in work.cases}
    wanted = {case: found for case, found in wanted.items() if found}
    names = {case: tuple(dict.fromkeys(name for pair in found for name in pair.names)) for case, found in wanted.items()}
    passes = sum(map(len, names.values()))
    reporter.say(
        f"pairs of configurations ({', '.join(pair.name for pair in pairs)}): {len(wanted)} cases are predicted once more, {passes} passes "
        "of a network in all, as long as their validations took; --no-pairs leaves pairs out"
    )
    records = {pair.name: _read(pair) for pair in pairs}

    def networks_of(case: str) -> list[tuple[str, str]]:
        """Return configuration and fold of the networks that a case needs."""
        return [(name, work.networks[name][case].root.name) for name in names[case]]

    done = 0
    for needed, group in itertools.groupby(sorted(wanted, key=networks_of), key=networks_of):
        models = [_opened(work, name, fold) for name, fold in needed]
        for case in group:
            reporter.progress("pairs of configurations", done, len(wanted))
            _predict_case(work, case, wanted[case], [name for name, _ in needed], models, records, keys)
            done += 1
    reporter.progress("pairs of configurations", done, len(wanted))


def _opened(work: _Work, name: str, fold: str) -> prediction.Model:
    number = int(fold.removeprefix("fold_"))
    return prediction.open_model(work.workspace.root, configuration=name, folds=(number,), device=work.device)


def _predict_case(
    work: _Work,
    name: str,
    pairs: Sequence[Pair],
    configurations: Sequence[str],
    models: Sequence[prediction.Model],
    records: Mapping[str, dict[str, _Made]],
    keys: _Keys,
) -> None:
    """Predict one case with all its networks, and write and record the label map of each pair."""
    case, labels = work.cases[name], work.plan.labels
    image = cases.load_image(case, channels=len(work.plan.channels))
    members = []
    for configuration, model in zip(configurations, models, strict=True):
        maps = work.previous.get(configuration)
        previous = None if maps is None else labels.encode(images.read_label(maps[name]).array[0])
        members.append(Member(plan=model.plan, stage=model.stages[-1], previous=previous))
    groups = [[configurations.index(one) for one in pair.names] for pair in pairs]
    found, _ = prediction.combine(members, image, groups=groups, device=work.device)
    for pair, classes in zip(pairs, found, strict=True):
        target = _target(pair, case)
        target.parent.mkdir(parents=True, exist_ok=True)
        images.write_label(target, labels.decode(classes), like=image)
        records[pair.name][name] = _Made(by=keys(pair, name), prediction=files.hash_file(target))
        files.write_json(pair.run.predicted_with, schema.dump(_Record(cases=records[pair.name])))


def _is_scored(pair: Pair) -> bool:
    """Return whether the summary there is of the predictions there are."""
    with contextlib.suppress(InputError):
        made = _read(pair)
        return read_summary(pair.run.summary).predictions == {case: made[case].prediction for case in pair.cases if case in made}
    return False


def _score(pair: Pair, work: _Work, reporter: Reporter) -> None:
    references, made = [work.cases[case] for case in pair.cases], _read(pair)
    largest = max(_voxels(_target(pair, case)) for case in references)
    metrics = evaluation.affordable_metrics(largest, work.plan.labels)
    summary: dict[str, Any] = score({case.name: _target(pair, case) for case in references}, references, work.plan.labels,
                                    metrics=metrics, parallel=work.workers, reporter=reporter)  # fmt: skip
    write_summary(pair.run.summary, {**summary, "predictions": {case: made[case].prediction for case in pair.cases}})


def _voxels(path: Path) -> int:
    z, y, x = images.read_header(path).shape
    return z * y * x
