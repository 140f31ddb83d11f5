"""Damaged files of a workspace by the thousand: each must end in a named error, in the same result, or in a word about it.

    OMP_NUM_THREADS=1 python benchmarks/mutations.py [--readers N] [--commands N] [--files PART,...] [--seed S]

A small workspace of phantoms is planned, trained for two steps, selected and used once. Then each of its files is damaged: flipped and
inserted bytes, cut and emptied files, and in JSON values of other types, doubled and lost keys, NaN, numbers of thousands of digits,
deep nesting. (a) Each damaged file is opened by the function that reads it, N mutations a file; (b) the commands that read it run on a
copy of the workspace, N mutations a file. Counted are exceptions that are no `AutosegError`, hangs (more than 30 s), and silent changes:
another value or result than that of the sound file, without an error, and with nothing more in the output than before. What a user may
edit (plan, folds, labels, rules) is counted as an edit where the damaged file still makes sense. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import copy
import io
import json
import os
import re
import shutil
import signal
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _report import report

from autoseg import cli, demo, files, fingerprint, prediction
from autoseg.errors import AutosegError
from autoseg.networks import checkpoint
from autoseg.pipeline import planned, records, reporting
from autoseg.preprocessing import blocks, store
from autoseg.training.history import read_history
from autoseg.workspace import Run, Workspace

HANG = 30  # seconds
PRINTED = 5  # faults of a kind, of each file
EDITABLE = ("plan.json", "splits.json", "dataset.json", "postprocessing.json")
RUN = "runs/3d_fullres/fold_0"
CASE = "preprocessed/3d_fullres/phantom_000"
TRAIN = ("train", "W", "--fold", "0", "--epochs", "1", "--set", "steps_per_epoch=2", "--device", "cpu", "--workers", "0")
COMMANDS = {
    "predict": ("predict", "W", "SCAN", "-o", "W/new/scan.nii.gz", "--device", "cpu", "--no-tta"),
    "again": ("predict", "W", "SCANS", "-o", "W/out", "--device", "cpu", "--no-tta"),
    "select": ("select", "W"),
    "report": ("report", "W", "-o", "W/page.html"),
    "evaluate": ("evaluate", "W/out", "W/out", "-o", "W/scores.json", "--workers", "0"),
    "labels": ("evaluate", "W/out", "W/out", "-o", "W/scores.json", "--workers", "0", "--labels", "W/FILE"),
    "train": TRAIN,
}
RESULTS = ("new/scan.nii.gz", "out/*.nii.gz", "selection.json", "postprocessing.json", "page.html", "scores.json",
           f"{RUN}/model.safetensors", f"{RUN}/validation/summary.json", f"{RUN}/validation/*.nii.gz")  # fmt: skip
USED_BY = {
    "plan.json": ("report", "select", "labels", "train"),
    "dataset.json": ("report", "labels", "train"),
    "fingerprint.json": ("predict", "report"),
    "splits.json": ("predict", "report", "train"),
    "check.json": ("report",),
    "selection.json": ("predict", "report"),
    "postprocessing.json": ("predict", "report"),
    f"{RUN}/model.json": ("predict", "train", "report"),
    f"{RUN}/model.safetensors": ("predict", "train"),
    f"{RUN}/history.jsonl": ("report", "train"),
    f"{RUN}/state/state.safetensors": ("train",),
    f"{RUN}/validation/summary.json": ("select", "report", "train"),
    f"{RUN}/validation/predicted_with.json": ("train",),
    "out/prediction.json": ("again", "evaluate"),
    f"{CASE}/case.json": ("train",),
    f"{CASE}/image.b2nd": ("train",),
    f"{CASE}/locations.npy": ("train",),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readers", type=int, default=600, help="mutations of each file that go through its reader")
    parser.add_argument("--commands", type=int, default=6, help="mutations of each file that go through the commands")
    parser.add_argument("--files", default="", help="only files whose path contains one of these, separated by commas")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    signal.signal(signal.SIGALRM, hang)
    rng = np.random.default_rng(given.seed)
    counts: dict[str, collections.Counter[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        made = make_workspace(root)
        base = {name: attempt(lambda name=name: run(name, made, root, "plan.json")) for name in COMMANDS}  # type: ignore[misc]
        for name in USED_BY:
            if any(part in name for part in given.files.split(",")):
                count = counts[name] = collections.Counter()
                through_reader(made, name, given.readers, rng, count)
                for _ in range(given.commands):
                    through_commands(made, root, name, base, rng, count)
                print(name, dict(count), flush=True)
    bad = {kind: sum(count[kind] for count in counts.values()) for kind in ("traceback", "hang", "silent change")}
    report("mutations", {"readers": given.readers, "commands": given.commands, **bad, "files": counts})


def make_workspace(root: Path) -> Path:
    """Four phantoms, planned, trained for two steps, selected, and one scan segmented."""
    demo.write_phantoms(root / "data", root / "scans", training_cases=4, new_cases=1, seed=5)
    names = [f"phantom_{i:03d}" for i in range(4)]
    files.write_json(root / "splits.json", [{"train": names[2:], "validation": names[:2]}, {"train": names[:2], "validation": names[2:]}])
    work = root / "work"
    must("plan", root / "data", "-o", work, "--splits", root / "splits.json", "--device", "cpu")
    plan = files.read_json(work / "plan.json")
    plan["configurations"]["3d_fullres"] |= {
        "patch_size": [16, 32, 32], "strides": [[1, 1, 1], [2, 2, 2]], "kernel_sizes": [[3, 3, 3]] * 2, "features_per_stage": [4, 8],
        "blocks_per_stage": [1, 1], "decoder_blocks_per_stage": [1], "predicted": None, "batch_size": 2,
    }  # fmt: skip
    files.write_json(work / "plan.json", {**plan, "mirror_axes": []})
    with contextlib.suppress(SystemExit):
        main_of(words(TRAIN, work, root, ""))  # two steps learn nothing, and it says so
    for name in ("select", "again"):
        must(*words(COMMANDS[name], work, root, ""))
    return work


def words(command: tuple[str, ...], work: Path, root: Path, file: str) -> list[str]:
    """A command with its places."""
    scan = next((root / "scans/images").iterdir())
    places = {"W": str(work), "SCANS": str(root / "scans/images"), "SCAN": str(scan)}
    return [
        places.get(word, word.replace("W/", f"{work}/", 1).replace("FILE", file) if word.startswith("W/") else word) for word in command
    ]


def main_of(arguments: list[Any]) -> tuple[int, str]:
    """Exit code and output of a command, in this process."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        code = cli.main([str(word) for word in arguments])
    return code, text.getvalue()


def must(*arguments: Any) -> None:
    """A command that has to succeed."""
    code, text = main_of(list(arguments))
    assert code == 0, f"{arguments}: {code}\n{text}"


def attempt(work: Callable[[], Any]) -> Any:
    """What it returns, within the time that is no hang."""
    signal.alarm(HANG)
    try:
        return work()
    finally:
        signal.alarm(0)


def through_reader(work: Path, name: str, number: int, rng: np.random.Generator, count: collections.Counter[str]) -> None:
    """Damage one file many times, in place, and open it each time."""
    file, read = work / name, reader(work, name)
    sound = file.read_bytes()
    known = fingerprint_of(attempt(read))
    for _ in range(number):
        data, how = damaged(sound, name, rng)
        file.write_bytes(data)
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                changed = fingerprint_of(attempt(read)) != known
            count["reader: silent" if changed and name not in EDITABLE else "reader: edited" if changed else "reader: as before"] += 1
            if changed and name not in EDITABLE:
                complain(name, "reader: silent", how, data, "", count, "silent change")
        except AutosegError:
            count["reader: refused"] += 1
        except TimeoutError:
            complain(name, "reader", how, data, "", count, "hang")
        except Exception:  # noqa: BLE001 - a traceback is what this script looks for
            complain(name, "reader", how, data, traceback.format_exc(), count, "traceback")
    file.write_bytes(sound)


def reader(work: Path, name: str) -> Callable[[], Any]:
    """The function that opens a file."""
    workspace, run = Workspace(root=work), Run(root=work / RUN)

    def case() -> Any:
        blocks.forget_open_files()
        stored = store.open_case((work / CASE).parent, "phantom_000")
        return stored.image(), stored.label(), stored.mask(), stored.locations, stored.geometry, stored.annotated

    def folds() -> Any:
        return planned.read_splits(workspace, planned.read_dataset(workspace))

    def model() -> Any:
        opened = prediction.open_model(work, device="cpu")
        return opened.identity, opened.plan.to_json(), opened.describe(), str(opened.fingerprint)

    def holds() -> Any:
        checkpoint.holds(run, weights, steps=2)  # where it is not whole, it is written again

    weights = checkpoint.load_model(run)[0]
    known: dict[str, Callable[[], Any]] = {
        "plan.json": lambda: planned.read_plan(workspace).to_json(),
        "dataset.json": lambda: planned.read_dataset(workspace),
        "fingerprint.json": lambda: fingerprint.read_fingerprint(workspace.fingerprint),
        "splits.json": folds,
        "check.json": lambda: reporting._data(workspace, planned.read_dataset(workspace)),
        "selection.json": model,
        "postprocessing.json": lambda: records.read_rules(workspace),
        f"{RUN}/model.json": holds,
        f"{RUN}/model.safetensors": model,
        f"{RUN}/history.jsonl": lambda: read_history(run),
        f"{RUN}/state/state.safetensors": lambda: checkpoint.load_state(run.state),
        f"{RUN}/validation/summary.json": lambda: records.read_summary(run.summary),
        f"{RUN}/validation/predicted_with.json": lambda: None,  # compared as a whole, by the command alone
        "out/prediction.json": lambda: records.read_record(work / "out/prediction.json"),
    }
    return known.get(name, case)


def fingerprint_of(value: Any) -> str:
    """A value as text that is equal where the values are."""
    with np.printoptions(threshold=2**31):
        return repr(value)


def through_commands(
    made: Path, root: Path, name: str, base: dict[str, Any], rng: np.random.Generator, count: collections.Counter[str]
) -> None:
    """Damage one file, and run every command that reads it, each on a copy."""
    data, how = damaged((made / name).read_bytes(), name, rng)
    for command in USED_BY[name]:
        work = root / "copy"
        try:
            code, said, results = attempt(lambda command=command: run(command, made, root, name, data))  # type: ignore[misc]
        except TimeoutError:
            complain(name, command, how, data, "", count, "hang")
            continue
        finally:
            shutil.rmtree(work, ignore_errors=True)
        known_code, known_said, known = base[command] if command != "labels" else run(command, made, root, name)
        differ = [path for path in known if results.get(path) != known[path] and path != name]
        warned = "warning" in said and said.count("warning") > known_said.count("warning") or mentions(said, known_said)
        if "defect of autoseg" in said or "Traceback" in said:
            complain(name, command, how, data, said, count, "traceback")
        elif code == known_code and differ and not warned and name not in EDITABLE:
            complain(name, command, how, data, f"{differ}\n{said}", count, "silent change")
        else:
            count[f"{command}: {'refused' if code != known_code else 'warned' if warned else 'changed' if differ else 'as before'}"] += 1


def mentions(said: str, known: str) -> bool:
    """Whether the output has a line more than that of the sound file: figures and places apart."""
    plain = [{re.sub(r"[\d.]+", "#", line) for line in text.splitlines()} for text in (said, known)]
    return bool(plain[0] - plain[1])


def run(command: str, made: Path, root: Path, name: str, data: bytes | None = None) -> tuple[int, str, dict[str, bytes]]:
    """Exit code, output and results of one command on a copy of the workspace, one file of which is damaged."""
    work = root / "copy"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(made, work)
    if data is not None:
        facts = (work / name).stat()
        (work / name).write_bytes(data)
        os.utime(work / name, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    code, said = main_of(words(COMMANDS[command], work, root, name))
    found = {str(path.relative_to(work)): path.read_bytes() for pattern in RESULTS for path in work.glob(pattern)}
    if "page.html" in found:  # names the files with their hashes, on purpose
        found["page.html"] = re.sub(rb"sha256 [0-9a-f]{64}", b"", found["page.html"])
    return code, said, found


def complain(name: str, where: str, how: str, data: bytes, said: str, count: collections.Counter[str], kind: str) -> None:
    """Count a fault, and print the first ones of a file."""
    count[kind] += 1
    lines = [line for line in said.strip().splitlines() if line.strip()]
    if count[kind] <= PRINTED:
        print(f"{kind}: {name} through {where} ({how})\n" + "\n".join(lines[-8:]), flush=True)


def damaged(sound: bytes, name: str, rng: np.random.Generator) -> tuple[bytes, str]:
    """A file with one fault, other than it was."""
    while True:
        text = name.endswith((".json", ".jsonl"))
        data, how = damaged_json(sound, rng) if text and rng.random() < 0.7 else damaged_bytes(sound, rng)
        if data != sound:
            return data, how


def damaged_bytes(sound: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """Bytes flipped, lost or added."""
    data, place = bytearray(sound), int(rng.integers(len(sound)))
    how = str(
        rng.choice(["flip", "flip near the head", "cut", "insert", "remove", "empty", "zeros"], p=[0.3, 0.2, 0.15, 0.15, 0.1, 0.05, 0.05])
    )
    if how.startswith("flip"):
        for at in rng.integers(0, len(data) if how == "flip" else min(len(data), 200), rng.integers(1, 4)):
            data[at] ^= 1 << int(rng.integers(8))
    elif how == "insert":
        data[place:place] = rng.bytes(int(rng.integers(1, 40)))
    elif how == "remove":
        del data[place : place + int(rng.integers(1, 40))]
    elif how == "zeros":
        data[place : place + 512] = bytes(len(data[place : place + 512]))
    else:
        del data[place if how == "cut" else 0 :]
    return bytes(data), f"{how} at {place}"


def damaged_json(sound: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """One value replaced, lost or said twice."""
    text = sound.decode()
    row, sep = 0, [text]
    if text.count("\n{") and text.startswith("{") and text.rstrip().endswith("}") and not is_json(text):
        sep = text.splitlines(keepends=True)
        row = int(rng.integers(len(sep)))
    value = copy.deepcopy(json.loads(sep[row]))
    places = list(walk(value))
    path = places[int(rng.integers(len(places)))]
    marker = "\0HERE\0"
    odd = ["null", "true", "[]", "{}", '""', '"x"', "-1", "0", "1.5", "1e308", "1e999", "NaN", "-Infinity", "9" * 5000, "[" * 50_000,
           "[" * 3000 + "]" * 3000, '{"a": 1, "a": 2}', "[null]", "[[1, 2], [3]]", '{"x": null}', '"\\ud800"', "1234567890123456789012345",
           '"../../etc"', "[" + "0," * 3000 + "0]"]  # fmt: skip
    new, how = odd[int(rng.integers(len(odd)))], "replace"
    parent, last = value, path[-1] if path else None
    for step in path[:-1]:
        parent = parent[step]
    choice = rng.random()
    if last is None:
        sep[row] = new
    elif choice < 0.15:
        how, new = "remove", ""
        del parent[last]
        sep[row] = json.dumps(value) + "\n"
    elif choice < 0.25 and isinstance(parent, dict):
        how = "double the key"
        parent[marker] = 0
        sep[row] = json.dumps(value).replace(json.dumps(marker) + ": 0", f"{json.dumps(last)}: {new}") + "\n"
    elif choice < 0.35 and isinstance(parent, list):
        how, new = "repeat", ""
        parent.append(copy.deepcopy(parent[last]))
        sep[row] = json.dumps(value) + "\n"
    else:
        parent[last] = marker
        sep[row] = json.dumps(value).replace(json.dumps(marker), new) + "\n"
    return "".join(sep).encode(errors="surrogatepass"), f"{how} {'.'.join(map(str, path))} {new[:30]}"


def is_json(text: str) -> bool:
    """Whether a text is one JSON value."""
    with contextlib.suppress(ValueError):
        json.loads(text)
        return True
    return False


def walk(value: Any, path: tuple[str | int, ...] = ()) -> Any:
    """The places in a JSON value; those that are few in their list first, so that long lists do not take all the mutations."""
    yield path
    steps = value.items() if isinstance(value, dict) else enumerate(value[:6]) if isinstance(value, list) else ()
    for key, item in list(steps)[:40]:
        yield from walk(item, (*path, key))


def hang(*_: object) -> None:
    raise TimeoutError


if __name__ == "__main__":
    main()
