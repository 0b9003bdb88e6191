"""Jobs in processes: whatever ends the run ends its workers too, and the run goes on to the same records."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import arguments, lineament_here, record_bytes, wait_for

pytestmark = pytest.mark.slow


def session_members(session: int) -> list[int]:
    """Processes of a session, zombies left out (Linux)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def ctrl_c(process: subprocess.Popen[str]) -> None:
    """What a terminal does: the signal goes to workers as well."""
    os.killpg(process.pid, signal.SIGINT)


def interrupt(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()


def starting(run: Path) -> bool:
    """Workers exist and are importing."""
    return '"running"' in ((run / "state.json").read_text() if (run / "state.json").exists() else "")


def working(run: Path) -> bool:
    """Both workers are in the middle of their jobs."""
    return len(list(run.glob("stages/operating-*"))) == 2


@pytest.mark.parametrize(
    ("when", "stop", "words"),
    [(starting, ctrl_c, "--resume"), (working, interrupt, "--resume"), (working, kill, "")],
    ids=["Ctrl-C", "interrupt", "kill"],
)
def test_workers_end_with_the_run_which_goes_on_to_the_same_records(
    when: Callable[[Path], bool],
    stop: Callable[[subprocess.Popen[str]], None],
    words: str,
    finished: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "stopped"
    command = [*arguments(out), "--seeds", "2", "--executor", "processes"]
    process = subprocess.Popen(
        [sys.executable, "-m", "lineament.cli", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    # both workers must be seen, or their end could not be either
    wait_for(lambda: when(out) and len(session_members(process.pid)) >= 3, process)
    started = time.monotonic()
    stop(process)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGKILL if stop is kill else 1)
    assert words in errors
    assert "Traceback" not in errors
    while session_members(process.pid):
        assert time.monotonic() < started + 20, f"still there: {session_members(process.pid)}"
        time.sleep(0.05)
    assert len(list(out.glob("records/*.json"))) < 6, "the end came too late to test anything"
    assert not (out / "log.txt").exists(), "a worker took the interrupt for a failure of its job"
    done = lineament_here(*command, "--resume")
    assert done.returncode == 0, done.stderr
    assert record_bytes(out) == record_bytes(finished)


FIRST_WORKER = """
from lineament.runs.executors.processes import ProcessPool

if __name__ == "__main__":
    pool = ProcessPool(2)
    for _ in range(2):
        with open(f"/proc/{pool._new().process.pid}/status") as file:
            print(next(line.split()[1] for line in file if line.startswith("SigBlk")))
    pool.close()
"""


def test_no_worker_gets_the_interrupts_of_a_terminal_the_first_neither(tmp_path: Path) -> None:
    """Python's own helper process, which the first start makes, lets them through again."""
    script = tmp_path / "first_worker.py"
    script.write_text(FIRST_WORKER)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    masks = [int(word, 16) for word in done.stdout.split()]
    assert len(masks) == 2
    assert all(mask >> (signal.SIGINT - 1) & 1 for mask in masks)
