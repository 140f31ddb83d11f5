"""Kill and stop a training at random moments, start it again by the same command, and compare with an undisturbed one, byte by byte.

    python benchmarks/training_interruptions.py [--kills 10] [--stops 5] [--cases 12] [--epochs 6] [--steps 40] [--work DIR]

Some cases of the hippocampus set, `autoseg train --deterministic --epochs N` on a CPU. SIGKILL goes to the whole process group, SIGTERM
to the command alone, as a scheduler sends it; after SIGTERM the command must end by itself with exit code 130. The moments are drawn
uniformly over the length of the undisturbed run. Compared in the end: the weights and the out-of-fold predictions. Ends with one
line of JSON.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from _report import report

AUTOSEG = [sys.executable, "-m", "autoseg.cli"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("AUTOSEG_TEST_DATA", "../shared/data")))
    parser.add_argument("--work", type=Path, default=Path("autoseg-interruptions"))
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--stops", type=int, default=5)
    parser.add_argument("--cases", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--steps", type=int, default=40, help="per epoch")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    given = parser.parse_args()
    work = given.work.resolve()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    source = (given.data / "msd-hippocampus").resolve()
    with open(work / "cases.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["case", "channels", "label"])
        for label in sorted((source / "labelsTr").glob("[!.]*.nii.gz"))[: given.cases]:
            table.writerow([label.name.removesuffix(".nii.gz"), source / "imagesTr" / label.name, label])
    settings = ["--epochs", given.epochs, "--set", f"steps_per_epoch={given.steps}", "--deterministic"]
    words = {}
    subprocess.run([*AUTOSEG, "plan", work / "cases.csv", "-o", work / "undisturbed", "--quiet"], check=True)
    shutil.copytree(work / "undisturbed", work / "disturbed")
    for name in ("undisturbed", "disturbed"):
        words[name] = [*AUTOSEG, "train", work / name, "--fold", "0", *map(str, settings), "--device", "cpu", "--quiet"]
    begun = time.perf_counter()
    subprocess.run(words["undisturbed"], check=True)
    length = time.perf_counter() - begun
    print(f"undisturbed: {length:.1f} s", flush=True)

    draw = random.Random(given.seed)
    signals = [signal.SIGKILL] * given.kills + [signal.SIGTERM] * given.stops
    draw.shuffle(signals)
    done, saving = [], []
    for which in signals:
        moment = draw.uniform(0.0, length)
        code, seconds = disturbed(words["disturbed"], which, moment)
        done.append({"signal": which.name, "moment_seconds": round(moment, 2), "exit_code": code, "end_seconds": round(seconds, 2)})
        if which is signal.SIGTERM and code != 0:
            saving.append(seconds)
        print(done[-1], flush=True)
        if code == 0:  # it ended before the moment came: begun again, or the later moments would disturb nothing
            compare(work)
            shutil.rmtree(work / "disturbed" / "runs")
    subprocess.run(words["disturbed"], check=True)
    same = compare(work)
    wrong = [each for each in done if each["exit_code"] not in ((0, 130) if each["signal"] == "SIGTERM" else (0, -9))]
    report(
        "training_interruptions",
        {
            "kills": given.kills,
            "stops": given.stops,
            "interrupted": sum(each["exit_code"] != 0 for each in done),
            "wrong_exit_codes": wrong,
            "longest_saving_seconds": max(saving, default=None),
            "files_equal": same,
            "undisturbed_seconds": length,
        },
    )


def disturbed(words: list[str], which: signal.Signals, moment: float) -> tuple[int, float]:
    """Exit code of the command, and the seconds it took to end after the signal."""
    child = subprocess.Popen(words, start_new_session=True)
    try:
        return child.wait(moment), 0.0
    except subprocess.TimeoutExpired:
        pass
    if which is signal.SIGKILL:
        os.killpg(child.pid, which)
    else:
        child.send_signal(which)
    sent = time.perf_counter()
    code = child.wait(60)
    return code, time.perf_counter() - sent


def compare(work: Path) -> int:
    """Number of files of the run that are equal in both workspaces; all must be."""
    fold = Path("runs") / "3d_fullres" / "fold_0"
    found = {name: digests(work / name / fold) for name in ("undisturbed", "disturbed")}
    different = [file for file in {**found["undisturbed"], **found["disturbed"]} if len({f.get(file) for f in found.values()}) > 1]
    if different:
        raise SystemExit(f"not equal: {', '.join(sorted(different))}")
    return len(found["undisturbed"])


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of the weights and the out-of-fold predictions."""
    files = [folder / "model.safetensors", *sorted((folder / "validation").glob("*.nii.gz"))]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


if __name__ == "__main__":
    main()
