"""The command line: exit codes, messages, and no traceback for what a user can mend."""

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from autoseg import cli, terminal

COMMANDS = ("check", "plan", "train", "predict", "evaluate", "select", "suspects", "report", "export", "import", "demo")


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.main([str(word) for word in arguments])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(capsys, command):
    code, out, _ = run(capsys, command, "--help")
    assert code == 0 and f"autoseg {command}" in out


def test_help_lists_every_command_and_imports_nothing_heavy(capsys):
    import subprocess
    import sys

    code, out, _ = run(capsys, "--help")
    assert code == 0 and all(command in out for command in COMMANDS)
    program = "import sys; from autoseg import cli; cli.main(['--help']); print(sorted({'torch', 'numpy', 'nibabel'} & set(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[-1] == "[]"


def test_the_version_is_printed(capsys):
    assert run(capsys, "--version")[:2] == (0, "autoseg 0.1.0\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["trian"],
        ["train"],
        ["train", "somewhere", "--configuration", "4d"],
        ["train", "somewhere", "--time-budget", "soon"],
        ["train", "somewhere", "--epochs", "3", "--time-budget", "1m"],
        ["train", "somewhere", "--epochs", "0"],
        ["train", "somewhere", "--fold", "first"],
        ["plan"],
        ["predict", "model"],
        ["check", "x", "--workers", "many"],
        ["check", "x", "--workers", "\u00b2"],
        ["train", "somewhere", "--fold", "\u00b2"],
        ["check", "x", "--wokers", "2"],
    ],
)
def test_wrong_usage_ends_with_2_and_says_why(capsys, arguments):
    code, _, err = run(capsys, *arguments)
    assert code == 2 and err.strip()


def test_a_misspelt_command_is_answered_with_the_nearest(capsys):
    assert "train" in run(capsys, "trian")[2]


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "NOWHERE"],
        ["plan", "NOWHERE"],
        ["plan", "--fingerprint", "NOWHERE/fingerprint.json"],
        ["train", "NOWHERE"],
        ["predict", "NOWHERE", "NOWHERE/scan.nii.gz", "-o", "NOWHERE/out"],
        ["evaluate", "NOWHERE", "NOWHERE"],
        ["select", "NOWHERE"],
        ["suspects", "NOWHERE"],
    ],
)
def test_what_is_not_there_ends_with_3_and_names_the_path(capsys, tmp_path, arguments):
    nowhere = tmp_path / "nowhere"
    code, _, err = run(capsys, *[word.replace("NOWHERE", str(nowhere)) for word in arguments])
    assert code == 3 and str(nowhere) in err
    assert not nowhere.exists()


def test_an_unknown_layout_ends_with_3_and_says_what_was_looked_for(capsys, tmp_path):
    (tmp_path / "notes.txt").write_text("no scans here")
    code, _, err = run(capsys, "check", tmp_path)
    assert code == 3 and "nnunet-v2" in err and "CSV" in err


def test_an_unknown_planner_is_answered_with_the_known_ones(capsys, tmp_path):
    code, _, err = run(capsys, "plan", tmp_path, "--planner", "defualt")
    assert code == 3 and "default" in err


def test_a_damaged_workspace_ends_with_3(capsys, tmp_path):
    (tmp_path / "plan.json").write_text("{")
    code, _, err = run(capsys, "train", tmp_path)
    assert code == 3 and "plan.json" in err
    (tmp_path / "plan.json").write_text(json.dumps({"format": 99}))
    assert run(capsys, "train", tmp_path)[0] == 3


def test_a_defect_ends_with_1_and_asks_for_a_report(capsys, monkeypatch, tmp_path):
    from autoseg.pipeline import preparing

    def broken(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(preparing, "check", broken)
    code = cli.main(["check", str(tmp_path)])
    err = capsys.readouterr().err
    assert code == 1 and "Traceback" in err and "report" in err


def test_an_interrupt_ends_with_130(capsys, monkeypatch, tmp_path):
    from autoseg.pipeline import preparing

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(preparing, "check", interrupted)
    assert run(capsys, "check", tmp_path)[0] == 130


def test_a_signal_that_comes_when_the_work_is_done_does_not_change_the_exit_code() -> None:
    program = (
        "import atexit, sys, time; from autoseg import cli; sys.argv = ['autoseg', '--version']\n"
        "atexit.register(lambda: (print('the end', flush=True), time.sleep(1)))\n"
        "sys.exit(cli.main())"
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        while child.stdout.readline().strip() != "the end":
            assert child.poll() is None
        child.send_signal(number)
        assert child.wait(20) == 0
        child.stdout.close()


def test_another_project_of_the_same_name_is_reported(capsys, monkeypatch, tmp_path):
    from autoseg import version
    from autoseg.pipeline import preparing

    monkeypatch.setattr(preparing, "check", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", [str(tmp_path / "site-packages")])
        assert version.other_autoseg() is None
        (tmp_path / "site-packages/autoseg-1.1.1.dist-info").mkdir(parents=True)
        (tmp_path / "site-packages/autoseg_unet-0.1.0.dist-info").mkdir()
        found = version.other_autoseg()
        assert found is not None and found.name == "autoseg-1.1.1.dist-info"
    monkeypatch.setattr(terminal, "other_autoseg", lambda: found)
    assert "pip uninstall autoseg" in "".join(run(capsys, "check", tmp_path)[1:])


def test_a_closed_stderr_does_not_end_the_work(tmp_path):
    """As daemons start programs: `2>&-`."""
    program = "import sys; from autoseg import cli; sys.exit(cli.main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "demo", "--help"]
    assert subprocess.run(["/bin/sh", "-c", 'exec "$@" 2>&-', "sh", *command], stdout=subprocess.DEVNULL, check=False).returncode == 0
    program_of_bars = (
        "import sys; from autoseg.terminal import Terminal\n"
        "with Terminal(quiet=False) as t: t.progress('predict', 0, 3); t.say('done'); t.progress('predict', 3, 3)"
    )
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-c", program_of_bars], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and done.stdout == "done\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("streams", ["> /dev/full", "> /dev/full 2>&1", "2> /dev/full"])
def test_a_full_disk_behind_stdout_is_exit_code_3_and_the_work_is_done(tmp_path, streams):
    code = """
import sys
from autoseg import cli
from autoseg.terminal import Terminal

@cli.app.command()
def work(file: str) -> None:
    with Terminal(quiet=False) as terminal:
        terminal.say("first")
        open(file, "w").write("done")
        terminal.progress("work", 1, 1)

sys.exit(cli.main())
"""
    command = shlex.join([sys.executable, "-c", code, "work", str(tmp_path / "result")])
    ended = subprocess.run(f"{command} {streams}", shell=True, capture_output=True, text=True)
    assert ended.returncode == (0 if streams.startswith("2>") else 3)
    assert (tmp_path / "result").read_text() == "done" and "defect" not in ended.stderr
    if streams == "> /dev/full":
        assert "DiskFull" in ended.stderr


def test_a_json_file_that_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch, capsys):
    from autoseg import files
    from autoseg.errors import MissingPath

    def refuse(folder):
        raise MissingPath("nothing can be written there", file=folder)

    monkeypatch.setattr(files, "require_writable", refuse)
    assert cli.main(["check", str(tmp_path / "none"), "--json", str(tmp_path / "x.json")]) == 3
    assert "nothing can be written there" in capsys.readouterr().err
