import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from autoseg.errors import SettingsError
from autoseg.training.process_group import SINGLE_PROCESS, ProcessGroup
from tests.training import process_group_program

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What one process saw, and what each of two saw that share the same batches."""
    alone, together = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("together")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    starter = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    done = subprocess.run(
        [*starter, process_group_program.__file__, str(together)], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr
    subprocess.run([sys.executable, process_group_program.__file__, str(alone)], env=environment, cwd=ROOT, check=True, timeout=200)
    return [
        json.loads((folder / name).read_text())
        for folder, name in ((alone, "rank0.json"), (together, "rank0.json"), (together, "rank1.json"))
    ]


@pytest.mark.parametrize("kind", process_group_program.KINDS)
def test_two_processes_have_the_loss_of_one_with_the_same_whole_batch(found, kind):
    alone, first, second = (each[kind] for each in found)
    assert first["losses"] == second["losses"]
    assert first["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    assert alone["losses"][2] < alone["losses"][0]


@pytest.mark.parametrize("kind", [*process_group_program.KINDS, "loop"])
def test_two_processes_end_with_the_weights_of_one(found, kind):
    alone, first, second = (each[kind]["weights"] for each in found)
    assert first == second
    assert first == pytest.approx(alone, rel=1e-4, abs=1e-6)


def test_two_processes_train_the_run_of_one_and_only_the_main_one_reports_and_validates(found):
    alone, first, second = (each["loop"] for each in found)
    assert first["losses"] == pytest.approx(alone["losses"], rel=1e-5) and len(first["losses"]) == 2
    assert first["validated"] == alone["validated"] != [] and second["validated"] == []
    assert first["said"] == alone["said"] > 0 and second["said"] == 0


def test_the_main_process_names_the_case_with_damaged_values_whichever_process_has_it_in_its_share(found):
    alone, first, second = (each["damaged"] for each in found)
    for said in (alone, first):
        left_out = [text for text in said if "left out" in text]
        assert len(left_out) == 6 + 5 and all("not all finite in case2" in text for text in left_out)  # steps, and batches of the probe
        assert all(f"case{i}" in text for text in left_out for i in range(4))
    assert second == []


def test_one_process_alone_is_a_team_of_one():
    assert SINGLE_PROCESS.is_main and list(SINGLE_PROCESS.share(3)) == [0, 1, 2]
    assert SINGLE_PROCESS.agree(0.25, "SIGTERM") == (0.25, "SIGTERM")
    assert SINGLE_PROCESS.gather((("one", "two"), math.inf)) == [[["one", "two"], math.inf]], "as from several processes: by JSON"
    assert math.isnan(SINGLE_PROCESS.gather(math.nan)[0])


def test_a_batch_that_cannot_be_divided_evenly_is_refused_with_the_remedy():
    assert list(ProcessGroup(rank=1, size=2).share(6)) == [1, 3, 5]
    with pytest.raises(SettingsError, match="evenly") as refused:
        ProcessGroup(rank=0, size=2).share(3)
    assert "multiple of 2" in str(refused.value)
