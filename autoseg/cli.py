"""The command line: arguments in, `pipeline` called, an `AutosegError` printed with its exit code.

Heavy imports stay inside the commands, so that `--help` is instant.
"""

from __future__ import annotations

import contextlib
import enum
import io
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from autoseg.errors import AutosegError, FaultyCases, UsageError, short_of_space, unusable_path
from autoseg.quantities import label_values, parse_duration
from autoseg.shards import parse_shard
from autoseg.terminal import Terminal
from autoseg.version import __version__

app = typer.Typer(
    name="autoseg",
    help="From a folder of medical scans with reference segmentations to a trained, validated, shippable segmentation model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)


# typer carries its own copy of click, or not, by its version: the family of usage errors is found through its public member
_WRONG_USAGE = next(kind for kind in reversed(typer.BadParameter.__mro__) if hasattr(kind, "show"))


class ConfigurationName(enum.StrEnum):
    """What can be given to --configuration."""

    planar = "2d"
    full = "3d_fullres"
    low = "3d_lowres"
    cascade = "3d_cascade"
    every = "all"


class SegmentationType(enum.StrEnum):
    """What can be given to --seg."""

    binary = "binary"
    labelmap = "labelmap"


DataSetArgument = Annotated[Path, typer.Argument(metavar="DATASET", help="A folder in a known layout, or a CSV/JSON list of cases.")]
WorkspaceArgument = Annotated[Path, typer.Argument(metavar="WORKSPACE", help="The folder that 'autoseg plan' made.")]
Device = Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda[:N]|mps", help="Where to compute.")]
Workers = Annotated[str, typer.Option("--workers", metavar="N|auto", help="Worker processes (0: main process).")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only warnings and errors.")]
JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Also write the result as JSON.", callback=lambda file: _writable(file))
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Recompute existing results.")]
Seed = Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Seed of all random numbers.")]
Recipe = Annotated[str | None, typer.Option("--recipe", metavar="NAME|FILE.toml", help="Layout of the data set; default: detect it.")]
GroupRegex = Annotated[
    str | None, typer.Option("--group-regex", metavar="RE", help="Pattern whose first group, in a case's name, is the patient or site.")
]
Exclude = Annotated[list[str] | None, typer.Option("--exclude", metavar="CASE", help="Leave this case out; can be repeated.")]
FixGeometry = Annotated[
    str | None,
    typer.Option(
        "--fix-geometry",
        metavar="copy-image|resample-label",
        help="What to do with labels that are not on the grid of their image.",
    ),
]
MapLabels = Annotated[
    list[str] | None, typer.Option("--map-labels", metavar="FROM=TO", help="Replace a value in the label files; can be repeated.")
]
Configuration = Annotated[ConfigurationName | None, typer.Option("--configuration", "-c", help="Default: the plan's 3D configuration.")]
Configurations = Annotated[
    str | None,
    typer.Option(
        "--configuration", "-c", metavar="NAME[+NAME...]", help="One, or several whose probabilities are averaged; default: the selected."
    ),
]
Fold = Annotated[str, typer.Option("--fold", "-f", metavar="0..4|all", help="Fold of the cross-validation.")]


ShardOption = Annotated[
    str | None, typer.Option("--shard", metavar="K/N", help="Only part K of N of the cases; the same command without it does the rest.")
]


@app.command()
def check(
    dataset: DataSetArgument,
    recipe: Recipe = None,
    group_regex: GroupRegex = None,
    exclude: Exclude = None,
    map_labels: MapLabels = None,
    fix_geometry: FixGeometry = None,
    workers: Workers = "auto",
    json: JsonFile = None,
    quiet: Quiet = False,
) -> None:
    """Read every case and report all faults at once."""
    from autoseg import checking, files
    from autoseg.pipeline import preparing

    with Terminal(quiet=quiet) as terminal:
        found = preparing.check(
            dataset,
            recipe=recipe,
            group_regex=group_regex,
            exclude=exclude or (),
            map_labels=_map(map_labels or ()),
            fix_geometry=fix_geometry,
            workers=_workers(workers),
            reporter=terminal,
        )
        if json is not None:
            files.write_json(json, found.to_json())
        if found.faults:
            terminal.show(checking.table(found.faults))
        errors = len(found.errors)
        warnings = sum(fault.severity == "warning" for fault in found.faults)
        terminal.say(f"{len(found.dataset.cases)} cases checked: {_plural(errors, 'error')}, {_plural(warnings, 'warning')}")
    if found.errors:
        raise typer.Exit(FaultyCases.exit_code)


@app.command()
def plan(
    dataset: Annotated[
        Path | None, typer.Argument(metavar="DATASET", help="A folder in a known layout, or a CSV/JSON list of cases.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="WORKSPACE", help="The folder to create.")] = None,
    fingerprint: Annotated[Path | None, typer.Option("--fingerprint", metavar="FILE", help="Plan from a fingerprint alone.")] = None,
    planner: Annotated[str, typer.Option("--planner", metavar="NAME|FILE.toml", help="Planner preset.")] = "default",
    network: Annotated[
        str | None,
        typer.Option("--network", metavar="NAME|FILE.toml|MODULE:CALLABLE", help="Network; default: the planner's. See --list-networks."),
    ] = None,
    list_networks: Annotated[bool, typer.Option("--list-networks", help="List the networks there are, and do nothing else.")] = False,
    set: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any constant of the planner; can be repeated.")
    ] = None,
    memory: Annotated[str | None, typer.Option("--memory", metavar="8G", help="Memory for training; default: what the device has.")] = None,
    time_budget: Annotated[str | None, typer.Option("--time-budget", metavar="10m", help="Training time per fold to plan for.")] = None,
    splits: Annotated[Path | None, typer.Option("--splits", metavar="FILE", help="A splits.json of your own.")] = None,
    probe: Annotated[bool, typer.Option("--probe", help="Measure the speed of this machine again.")] = False,
    recipe: Recipe = None,
    group_regex: GroupRegex = None,
    exclude: Exclude = None,
    map_labels: MapLabels = None,
    fix_geometry: FixGeometry = None,
    device: Device = "auto",
    seed: Seed = 0,
    workers: Workers = "auto",
    overwrite: Overwrite = False,
    json: JsonFile = None,
    quiet: Quiet = False,
) -> None:
    """Check, measure and plan a data set, and split it into folds; prints the plan with its reasons."""
    if list_networks:
        return _list_networks()
    from autoseg import files, machine
    from autoseg.pipeline import preparing

    with Terminal(quiet=quiet) as terminal:
        workspace = preparing.plan(
            dataset,
            output=output,
            from_fingerprint=fingerprint,
            planner=planner, network=network, settings=_settings(set or ()), device=device,
            memory=None if memory is None else machine.parse_memory(memory),
            time_budget=parse_duration(time_budget),
            recipe=recipe,
            group_regex=group_regex,
            exclude=exclude or (),
            map_labels=_map(map_labels or ()),
            fix_geometry=fix_geometry,
            splits=splits,
            seed=seed,
            workers=_workers(workers),
            probe=probe, overwrite=overwrite, reporter=terminal)  # fmt: skip
        if json is not None:
            files.write_json(json, files.read_json(workspace.plan))
        terminal.say(f"\nplanned in {workspace.root}; next: autoseg train {workspace.root}")


@app.command()
def train(
    workspace: WorkspaceArgument,
    configuration: Configuration = None,
    fold: Fold = "all",
    epochs: Annotated[
        int | None, typer.Option("--epochs", metavar="N", help="Number of epochs; the learning-rate schedule adapts.")
    ] = None,
    time_budget: Annotated[
        str | None, typer.Option("--time-budget", metavar="10m", help="Time per fold, validation included; the schedule adapts.")
    ] = None,
    deterministic: Annotated[bool, typer.Option("--deterministic", help="Bit-for-bit reproducible on a CPU.")] = False,
    set: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any documented setting; can be repeated.")] = None,
    device: Device = "auto",
    seed: Seed = 0,
    workers: Workers = "auto",
    overwrite: Overwrite = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write TensorBoard event files.")] = False,
    folds_at_once: Annotated[int, typer.Option("--folds-at-once", hidden=True, help="Folds trained here at the same time.")] = 1,
    time_spent: Annotated[float, typer.Option("--time-spent", hidden=True, help="Seconds of the time budget that are over.")] = 0.0,
    json: JsonFile = None,
    quiet: Quiet = False,
) -> None:
    """Preprocess what is missing, train, validate out of fold; the same command again resumes."""
    started = time.monotonic() - time_spent
    if epochs is not None and time_budget is not None:
        raise UsageError("--epochs and --time-budget exclude each other", fix="give one of them")
    if epochs is not None and epochs < 1:
        raise UsageError("--epochs must be at least 1", found=str(epochs), fix="give a positive number")
    from autoseg import files, resources
    from autoseg.pipeline import training

    resources.keep_freed_memory()
    with Terminal(quiet=quiet) as terminal:
        results = training.train(
            workspace,
            configuration=None if configuration is None else configuration.value,
            fold=_fold(fold),
            epochs=epochs,
            time_budget=parse_duration(time_budget),
            deterministic=deterministic,
            settings=_settings(set or ()),
            device=device,
            seed=seed,
            workers=_workers(workers),
            overwrite=overwrite,
            tensorboard=tensorboard,
            folds_at_once=folds_at_once,
            started=started,
            reporter=terminal,
        )
        if json is not None:
            files.write_json(json, results)


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A workspace or a model file.")],
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Files or a folder.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUTPUT", help="A file for one input, else a folder.")],
    configuration: Configurations = None,
    fold: Fold = "all",
    tta: Annotated[bool, typer.Option("--tta/--no-tta", help="Mirrored test-time augmentation.")] = True,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Also write the probability of each label, as float32.")] = False,
    uncertainty: Annotated[
        bool, typer.Option("--uncertainty", help="Also write the uncertainty of each voxel, 0 to 1 in 255 steps.")
    ] = False,
    max_memory: Annotated[
        str | None, typer.Option("--max-memory", metavar="SIZE", help="Memory to stay within, such as 6G; by default 80 % of what is free.")
    ] = None,
    postprocess: Annotated[
        bool, typer.Option("--postprocess/--no-postprocess", help="Apply the rules chosen from out-of-fold results.")
    ] = True,
    colours: Annotated[bool, typer.Option("--colours", help="Also write label names and colours for viewers.")] = False,
    allow_network: Annotated[
        str | None, typer.Option("--allow-network", metavar="MODULE:CALLABLE", help="Let the model use this code of your own.")
    ] = None,
    seg: Annotated[SegmentationType | None, typer.Option("--seg", help="Of DICOM series: write DICOM SEG of this type.")] = None,
    rtstruct: Annotated[bool, typer.Option("--rtstruct", help="Of DICOM series: write contours, RTSTRUCT.")] = False,
    verify: Annotated[
        Path | None, typer.Option("--verify", metavar="ALLOWED_SIGNERS", help="Require that one of these has signed the model file.")
    ] = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    shard: ShardOption = None,
    json: JsonFile = None,
    quiet: Quiet = False,
) -> None:
    """Segment new scans on their own grid."""
    if rtstruct and seg is not None:
        raise UsageError("--seg and --rtstruct exclude each other", fix="give one of them")
    part = parse_shard(shard)
    if configuration is not None:
        _require_configurations(configuration)
    from autoseg import extensions, files, machine, resources
    from autoseg.pipeline import predicting

    resources.keep_freed_memory()
    if allow_network is not None:
        extensions.allow(allow_network)
    with Terminal(quiet=quiet) as terminal:
        results = predicting.predict(
            model,
            inputs,
            output,
            configuration=configuration,
            fold=_fold(fold), tta=tta, probabilities=probabilities, uncertainty=uncertainty,
            max_memory=None if max_memory is None else machine.parse_memory(max_memory),
            postprocess=postprocess, colours=colours,
            dicom="rtstruct" if rtstruct else None if seg is None else seg.value,
            verify=verify, device=device, overwrite=overwrite, shard=part, reporter=terminal)  # fmt: skip
        if json is not None:
            files.write_json(json, results)


@app.command()
def evaluate(
    predictions: Annotated[Path, typer.Argument(metavar="PREDICTIONS", help="A label map, or a folder of them.")],
    references: Annotated[Path, typer.Argument(metavar="REFERENCES", help="The references: a label map, or a folder with equal names.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE", help="Where to write summary.json.")] = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", metavar="FILE|DATASET", help="Names of the labels: plan.json, dataset.json or a data set.")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option("--metrics", metavar="quick|all|NAME,...", help="What to compute; all, unless the scans are large.")
    ] = None,
    tolerance: Annotated[
        list[str] | None,
        typer.Option("--tolerance", metavar="MM|LABEL=MM", help="Of NSD and boundary IoU, for all labels or one; 2 mm."),
    ] = None,
    by: Annotated[
        str | None, typer.Option("--by", metavar="group|RE", help="Also summarise groups of cases: the data set's, or by name.")
    ] = None,
    resample: Annotated[bool, typer.Option("--resample", help="Compare on the reference's grid where the grids differ.")] = False,
    workers: Workers = "auto",
    json: JsonFile = None,
    quiet: Quiet = False,
) -> None:
    """Compare predictions with references, per case and label, and in summary."""
    from autoseg import files
    from autoseg.pipeline import evaluating

    with Terminal(quiet=quiet) as terminal:
        summary = evaluating.evaluate(
            predictions,
            references,
            output=output,
            labels=labels,
            metrics=metrics,
            tolerance=evaluating.parse_tolerance(tolerance or []),
            by=by,
            resample=resample,
            workers=_workers(workers),
            reporter=terminal,
        )
        if json is not None:
            files.write_json(json, summary)
        terminal.show(evaluating.table(summary))


@app.command()
def select(
    workspace: WorkspaceArgument,
    against: Annotated[
        list[Path] | None, typer.Option("--against", metavar="WORKSPACE", help="Compare with another one as well; can be repeated.")
    ] = None,
    pairs: Annotated[
        bool, typer.Option("--pairs/--no-pairs", help="Also compare pairs of configurations; predicts their common cases with both.")
    ] = True,
    device: Device = "auto",
    workers: Workers = "auto",
    json: JsonFile = None,
    quiet: Quiet = False,
) -> None:
    """Choose the best configuration or pair and the post-processing rules from out-of-fold results."""
    from autoseg import files
    from autoseg.pipeline import selecting

    with Terminal(quiet=quiet) as terminal:
        result = selecting.select(workspace, against=against or (), pairs="all" if pairs else "none", device=device, reporter=terminal)
        if json is not None:
            files.write_json(json, result)


@app.command()
def suspects(
    workspace: WorkspaceArgument,
    configuration: Annotated[
        ConfigurationName | None, typer.Option("--configuration", "-c", help="Whose results to use; default: the selected one.")
    ] = None,
    most: Annotated[int, typer.Option("--most", metavar="N", min=1, help="Cases to list at most.")] = 20,
    json: JsonFile = None,
    quiet: Quiet = False,
) -> None:
    """List cases whose reference may be wrong: the networks that have not seen them are sure of something else."""
    from autoseg import files, schema
    from autoseg.pipeline import suspecting

    with Terminal(quiet=quiet) as terminal:
        found = suspecting.find_suspects(
            workspace, configuration=None if configuration is None else configuration.value, most=most, reporter=terminal
        )
        if json is not None:
            files.write_json(json, schema.dump(found))
        if found.suspects:
            terminal.show(suspecting.table(found))
            terminal.say(f"pictures: {workspace / 'suspects'}")
        terminal.say(f"{found.cases} cases compared ({found.configuration}): {_plural(len(found.suspects), 'suspect')}")


@app.command()
def report(
    source: Annotated[Path, typer.Argument(metavar="WORKSPACE|DATASET", help="A workspace, trained or not, or a data set to check.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE.html", help="Default: WORKSPACE/report.html.")] = None,
    configuration: Annotated[
        ConfigurationName | None, typer.Option("--configuration", "-c", help="Whose results to show; default: the selected one.")
    ] = None,
    workers: Workers = "auto",
    quiet: Quiet = False,
) -> None:
    """Write one HTML page: scores, pictures of the worst cases, curves, data, plan and methods."""
    from autoseg.pipeline import reporting

    with Terminal(quiet=quiet) as terminal:
        reporting.write_report(
            source,
            output=output,
            configuration=None if configuration is None else configuration.value,
            workers=_workers(workers),
            reporter=terminal,
        )


@app.command("import")
def import_(
    source: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="A trained model of nnU-Net v2: TRAINER__PLANS__CONFIGURATION, or the folder of these."),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="WORKSPACE", help="The folder to create.")],
    postprocessing: Annotated[bool, typer.Option("--postprocessing", help="Also take over nnU-Net's post-processing.")] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Import a model that nnU-Net v2 trained; nothing in its files is run."""
    from autoseg.pipeline import importing

    with Terminal(quiet=quiet) as terminal:
        importing.import_model(source, output, postprocessing=postprocessing, overwrite=overwrite, reporter=terminal)
        terminal.say(f"imported into {output}; next: autoseg predict {output} SCANS -o RESULTS")


@app.command()
def export(
    workspace: WorkspaceArgument,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE.autoseg", help="The model file to write.")],
    configuration: Configurations = None,
    fold: Fold = "all",
    card: Annotated[
        Path | None, typer.Option("--card", metavar="card.toml", help="Answers for the model card; default: WORKSPACE/card.toml.")
    ] = None,
    sign: Annotated[Path | None, typer.Option("--sign", metavar="KEY", help="Sign with this private SSH key.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    quiet: Quiet = False,
) -> None:
    """Write the trained model as one file that can be handed on."""
    if configuration is not None:
        _require_configurations(configuration)
    from autoseg.pipeline import exporting

    with Terminal(quiet=quiet) as terminal:
        exporting.export(
            workspace,
            output,
            configuration=configuration,
            fold=_fold(fold),
            card=card,
            key=sign,
            overwrite=overwrite,
            reporter=terminal,
        )


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FOLDER", help="Where to put everything.")] = Path("autoseg-demo"),
    time_budget: Annotated[str, typer.Option("--time-budget", metavar="3m", help="Time for the training.")] = "3m",
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Run everything on a small built-in phantom data set, in minutes on a laptop CPU."""
    from autoseg import demo as road

    with Terminal(quiet=False) as terminal:
        road.run(output, time_budget=time_budget, device=device, seed=seed, command=_run_in_process, reporter=terminal)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    """Options of the program itself."""
    if version:
        print(f"autoseg {__version__}")
        raise typer.Exit(0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: see CONTRIBUTING.md.

    Parameters
    ----------
    arguments : without the program's name; by default those of this process
    """
    _on_signals(signal.default_int_handler, "SIGTERM", "SIGUSR1")  # as Ctrl-C does; the training loop has its own
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # the bytes of a path need not be text
    # OpenMP, which torch computes with, lets threads that wait for each other spin. While other work runs, one training step on two busy
    # cores takes 0.9 s when they sleep, 1.8 s when they spin; on idle cores there is no difference.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    code = _answered(list(sys.argv[1:] if arguments is None else arguments))
    if arguments is None:
        _on_signals(signal.SIG_IGN, "SIGTERM", "SIGUSR1", "SIGINT")  # Python's own end would make them the exit code of finished work
    return code


def _answered(arguments: list[str]) -> int:
    """Return the exit code of one command, and print whatever went wrong."""
    try:
        return _run(arguments)
    except typer.Abort:
        print("interrupted", file=sys.stderr)
        return 130
    except AutosegError as error:
        _complain(error)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except Exception as error:  # noqa: BLE001 - the outermost door: everything is printed, nothing is swallowed
        if isinstance(error, _WRONG_USAGE):
            error.show(file=sys.stderr)  # type: ignore[attr-defined]
            return 2
        known = short_of_space(error) or unusable_path(error)
        if known is not None:
            _complain(known)
            return known.exit_code
        traceback.print_exc()
        print("this is a defect of autoseg; please report it with the lines above", file=sys.stderr)
        return 1


def _complain(error: AutosegError) -> None:
    """Print an error; where even that has no room, the exit code says it."""
    with contextlib.suppress(OSError):
        print(error, file=sys.stderr, flush=True)
    for name in ("stdout", "stderr"):  # what they still hold cannot be written, and would spoil the exit code
        try:
            getattr(sys, name).flush()
        except (OSError, ValueError):
            setattr(sys, name, open(os.devnull, "w"))


def _run(arguments: list[str]) -> int:
    result = typer.main.get_command(app)(args=arguments, prog_name="autoseg", standalone_mode=False)
    return result if isinstance(result, int) else 0


def _run_in_process(arguments: Sequence[str]) -> int:
    """One command of the demo, as a user would type it."""
    code = _run(list(arguments))
    if code:
        raise typer.Exit(code)
    return code


def _writable(file: Path | None) -> Path | None:
    """Return the file of an option, where it can be written: known before the work begins."""
    from autoseg import files

    if file is not None:
        files.require_writable(file.parent)
    return file


def _plural(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _workers(text: str) -> int | None:
    if text == "auto":
        return None
    if text.isdecimal():
        return int(text)
    raise UsageError("--workers wants a number or 'auto'", found=text, fix="--workers auto")


def _fold(text: str) -> int | None:
    if text == "all":
        return None
    if text.isdecimal():
        return int(text)
    raise UsageError("--fold wants a number or 'all'", found=text, fix="--fold 0")


def _require_configurations(text: str) -> None:
    """Raise unless a text names configurations, joined by a plus sign."""
    known = [name.value for name in ConfigurationName if name is not ConfigurationName.every]
    if unknown := [part for part in text.split("+") if part not in known]:
        raise UsageError(
            "--configuration wants one configuration, or several joined by '+'", found=unknown[0] or text, expected=", ".join(known),
            fix="name one, such as 3d_fullres, or several, such as 2d+3d_fullres, or leave it to what select chose",
        )  # fmt: skip


def _map(pairs: Sequence[str]) -> dict[int, int]:
    """`FROM=TO` pairs of label values, FROM also a range or a colour; several may be in one text, separated by commas."""
    result = {}
    for pair in ",".join(pairs).split(",") if pairs else ():
        old, _, new = pair.partition("=")
        try:
            for value in label_values(old):
                result[value] = int(new)
        except ValueError:
            raise UsageError(
                "--map-labels wants FROM=TO", found=pair, expected="two label values; FROM may be a range or a colour",
                fix="--map-labels 7=0, --map-labels 128-255=1 or --map-labels ff0000=1",
            ) from None  # fmt: skip
    return result


def _list_networks() -> None:
    """Print the name and the description of every network."""
    from autoseg import presets

    with Terminal(quiet=False) as terminal:
        for name, description in presets.networks().items():
            terminal.say(f"{name:20} {description}")


def _settings(pairs: Sequence[str]) -> dict[str, str]:
    """`key=value`; what kind the value must be is known by who reads it."""
    result = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise UsageError("--set wants KEY=VALUE", found=pair, expected="such as augmentation.backend=batchgenerators",
                             fix="write the key, an equals sign and the value")  # fmt: skip
        result[key.strip()] = text.strip()
    return result


def _on_signals(handler: Callable[..., Any] | signal.Handlers, *names: str) -> None:
    """Set one handler for those signals that the system knows."""
    for name in names:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), handler)


if __name__ == "__main__":
    sys.exit(main())
