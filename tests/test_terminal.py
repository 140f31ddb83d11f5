"""What a command shows on a terminal, and what it writes to a pipe."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from autoseg.tables import Table
from autoseg.terminal import Terminal

pty = pytest.importorskip("pty", reason="pseudo-terminals are a thing of POSIX")

TABLE = Table(
    text="label  Dice\nliver  0.950",
    columns=("label", "Dice"),
    rows=(("liver", "0.950"),),
    figures=True,
    title="results",
    remarks=(("why", ("a sentence that is much longer than the terminal is wide, so that it continues on the next line",)),),
)
WORK = """
import sys
from tests.test_terminal import TABLE
from autoseg.terminal import Terminal
with Terminal(quiet=False) as t:
    t.progress("predict", 1, 3)
    t.say("warning: a path " + "x" * 100)
    t.progress("train", 3, 3, "epoch 1/2 " + "loss " * 40)
    t.show(TABLE)
"""


def on_a_terminal(*, columns: int = 70, stdout: int | None = None, **environment: str) -> str:
    """What a terminal receives from `WORK`, with its control codes."""
    ours, theirs = pty.openpty()
    variables = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm-256color", **environment}
    process = subprocess.Popen([sys.executable, "-c", WORK], stdout=stdout or theirs, stderr=theirs, env=variables)
    os.close(theirs)
    received = b""
    while True:
        try:
            received += os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
    os.close(ours)
    assert process.wait() == 0
    return received.decode().replace("\r\n", "\n")


def test_a_terminal_gets_bars_and_tables_that_fit_its_width() -> None:
    drawn = on_a_terminal()
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", drawn)
    assert "━" in drawn and "─" in drawn and "\x1b[33m" in drawn
    lines = re.split("[\r\n]", plain)
    assert max(len(line) for line in lines if "xxx" not in line) <= 70
    assert "x" * 100 in plain, "a path is not broken"
    assert re.search(r"liver +0\.950", plain) and "results" in lines
    assert any(line.startswith("  - a sentence") for line in lines) and any(line.startswith("    ") for line in lines)


@pytest.mark.parametrize("dumb", [True, False])
def test_a_pipe_and_a_dumb_terminal_get_plain_lines(tmp_path, dumb: bool) -> None:
    expected = f"warning: a path {'x' * 100}\n{TABLE}\n"
    if dumb:
        assert expected in (text := on_a_terminal(TERM="dumb")).replace("train 3/3  epoch 1/2 " + "loss " * 40 + "\n", "")
        assert "\x1b" not in text
        return
    with open(tmp_path / "out", "w") as file:
        assert "━" in on_a_terminal(stdout=file.fileno())
    assert (tmp_path / "out").read_text() == expected


def test_quiet_keeps_results_and_warnings(capsys) -> None:
    with Terminal(quiet=True) as terminal:
        terminal.progress("predict", 1, 1)
        terminal.say("a fact")
        terminal.say("warning: a doubt")
        terminal.show(TABLE)
    assert capsys.readouterr() == (f"warning: a doubt\n{TABLE}\n", "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_work_continues_when_nothing_can_be_written_to_stderr() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", WORK], stdout=subprocess.PIPE, stderr=full.fileno(), text=True, check=False)
    assert done.returncode == 0 and done.stdout.endswith(f"{TABLE}\n")
