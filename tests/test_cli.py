"""The command line as a user runs it: exit codes, messages, resuming after a real kill."""

from __future__ import annotations

import errno
import json
import os
import shlex
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from statistics import fmean

import pytest
from command_line import arguments, lineament, lineament_here, record_bytes, wait_for

from lineament import cli
from lineament.claims.claims_file import read_claims, write_claims
from lineament.cli import main
from lineament.commands.run.summary import print_summary, verdict_sentence
from lineament.records import Quantity, Record, load_records
from lineament.runs.folder import RunFolder
from lineament.settings.keys import KEYS
from lineament.settings.presets import resolve


def test_run_folder_holds_what_the_contract_says(finished: Path) -> None:
    for name in ("config.toml", "provenance.json", "state.json", "log.txt", "claims.json", "report.html"):
        assert (finished / name).stat().st_size > 0
    for point in ("star", "broken", "recovered"):
        assert (finished / "adapters" / "copy-seed0" / point / "adapter_config.json").exists()
    body = json.loads((finished / "claims.json").read_text())
    assert body["n_seeds"] == 2
    ids = {claim["id"] for claim in body["claims"]}
    assert {"static_plane_misses", "prefix_captures", "prefix_is_privileged"} <= ids
    assert len(list((finished / "records").glob("*.json"))) == 10


def test_serial_and_processes_give_the_same_records(finished: Path, tmp_path: Path) -> None:
    done = lineament_here(*arguments(tmp_path / "serial"), "--seeds", "2")
    assert done.returncode == 0, done.stderr
    assert record_bytes(tmp_path / "serial") == record_bytes(finished)


def test_killed_and_resumed_run_gives_the_same_records(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "lineament.cli", *arguments(out), "--seeds", "2"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    wait_for(lambda: list(out.glob("records/gradient_rank-copy-seed0.json")), process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(list((out / "records").glob("*.json"))) < 6, "the kill came too late to test anything"
    done = lineament_here(*arguments(out), "--seeds", "2", "--resume")
    assert done.returncode == 0, done.stderr
    assert record_bytes(out) == record_bytes(finished)


def test_torn_temporary_files_harm_nothing(finished: Path, copied: Path) -> None:
    out = copied
    planted = [out / "records" / ".tmp-lineament-abcd0123.tmp", out / ".tmp-lineament-abcd0123.tmp"]
    for path in planted:
        path.write_text('{"figures": [')
    for command in (["report", str(out)], ["export", str(out), "--csv"], ["claims", str(out)]):
        done = lineament_here(*command)
        assert done.returncode == 0, done.stderr
    done = lineament_here(*arguments(out), "--seeds", "2", "--resume")
    assert done.returncode == 0, done.stderr
    assert not any(path.exists() for path in planted)
    assert record_bytes(out) == record_bytes(finished)


def test_killed_during_recovery_and_resumed(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "lineament.cli", *arguments(out), "--seeds", "1"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    wait_for(lambda: list(out.glob("recording/*/start.safetensors")), process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = lineament_here(*arguments(out), "--seeds", "2", "--resume")
    assert done.returncode == 0, done.stderr
    assert record_bytes(out) == record_bytes(finished)


def test_more_seeds_extend_a_run(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "extended"
    assert lineament_here(*arguments(out), "--seeds", "1").returncode == 0
    before = record_bytes(out)
    assert lineament_here(*arguments(out), "--seeds", "2", "--resume").returncode == 0
    after = record_bytes(out)
    assert {name: after[name] for name in before} == before
    assert after == record_bytes(finished)
    started = json.loads((out / "provenance.json").read_text())
    done = lineament_here(*arguments(out), "--seeds", "1", "--measure", "gradient_rank", "--resume")
    assert done.returncode == 0, done.stderr
    config = tomllib.loads((out / "config.toml").read_text())
    assert (config["seed"], config["seeds"]) == (0, 2)
    assert set(config["measure"]) == {
        "gradient_rank",
        "basis_capture",
        "capture_by_horizon",
        "capture_without_momentum",
        "basis_drift",
    }
    again = json.loads((out / "provenance.json").read_text())
    assert again["started"] == started["started"]
    assert len(again["resumed"]) == len(started["resumed"]) + 1


def test_a_foreign_folder_is_refused_untouched(tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "lock").write_text("combination 1234")
    (out / "thesis.tex").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for target in (out, tmp_path / "file", tmp_path / "file" / "run"):
        done = lineament_here(*arguments(target))
        assert done.returncode == 2, done.stderr
        assert "--out" in done.stderr
    assert (out / "lock").read_text() == "combination 1234"
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "lock", "mine", "thesis.tex"]


def test_errors_of_the_system_get_fitting_advice(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, words in ((errno.EACCES, "allow writing"), (errno.ENOSPC, "free space")):

        def refuse(*ignored: object, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("lineament.commands.inspect.report.report", refuse)
            assert main(["report", str(finished)]) == 1
        shown = capsys.readouterr().err
        assert words in shown
        assert os.strerror(number) in shown


def test_a_reader_who_has_seen_enough_is_no_error_message(finished: Path) -> None:
    command = [sys.executable, "-m", "lineament.cli", "export", str(finished), "--csv"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait() == 1
    assert errors == ""


def test_same_folder_without_resume_is_refused(copied: Path) -> None:
    done = lineament_here(*arguments(copied), "--seeds", "2")
    assert done.returncode == 2
    assert "--resume" in done.stderr


def test_other_configuration_is_refused_and_named(copied: Path) -> None:
    before = record_bytes(copied)
    done = lineament_here(*arguments(copied, **{"recovery.lr": "1e-3"}), "--resume")
    assert done.returncode == 2
    assert "recovery.lr" in done.stderr
    assert record_bytes(copied) == before


def test_config_of_a_run_repeats_it(finished: Path, tmp_path: Path) -> None:
    done = lineament_here("run", "--config", str(finished / "config.toml"), "--out", str(tmp_path / "again"))
    assert done.returncode == 0, done.stderr
    assert record_bytes(tmp_path / "again") == record_bytes(finished)


def test_report_is_made_again_from_records_alone(copied: Path) -> None:
    before = (copied / "report.html").read_bytes()
    (copied / "report.html").unlink()
    assert lineament_here("report", str(copied)).returncode == 0
    assert (copied / "report.html").read_bytes() == before


def test_reading_commands(finished: Path) -> None:
    table = lineament_here("claims", str(finished))
    assert table.returncode == 0
    assert "prefix_captures" in table.stdout
    assert max(map(len, table.stdout.splitlines())) <= 80
    assert json.loads(lineament_here("claims", str(finished), "--json").stdout)["problem"] == "synthetic"
    assert "undisturbed" in lineament_here("runs", str(finished.parent)).stdout.replace("\n", "")
    rows = lineament_here("export", str(finished), "--csv").stdout.splitlines()
    assert len(rows) > 500
    same = lineament_here("compare", str(finished), str(finished))
    assert same.returncode == 0
    assert "prefix_captures" in same.stdout


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    done = lineament_here(*arguments(tmp_path / "none"), "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "min" in done.stdout
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--set", "recovry.lr=1"], ["recovry.lr", "recovery.lr"]),
        (["--set", "task.targets=sotr"], ["sotr", "sort"]),
        (["--set", "task.names=cpoy"], ["cpoy", "copy"]),
        (["--preset", "quik"], ["quik", "quick"]),
        (["--measure", "basis_capure"], ["basis_capure", "basis_capture"]),
        (["--set", "damage.kind=ascend"], ["ascend", "ascent"]),
        (["--set", "recovery.steps=ten"], ["recovery.steps", "ten"]),
        (["--set", "measurement.ranks=1,10,500"], ["500", "recovery steps"]),
        (["--set", "recovery.lr=0"], ["recovery.lr", "above 0"]),
        (["--set", "recovery.lr=inf"], ["recovery.lr", "finite"]),
        (["--set", "measurement.ranks="], ["measurement.ranks is (empty)"]),
        (["--measure", ""], ["measure is (empty)"]),
        (["--set", "recovery.lr"], ["key=value"]),
        (["--seeds", "1", "--require-interval"], ["--require-interval", "at least 3 seeds"]),
        (["--set", "lora.targets=qproj"], ["qproj", "q_proj"]),
        (["--model", "gpt2"], ["--model", "lm"]),
        (["--config", "absent.toml"], ["absent.toml"]),
        (["--device", "tpu"], ["tpu", "cpu"]),
        (["--nonsense"], ["nonsense"]),
        (["--set", "preset=full"], ["--set preset=full", "--preset full"]),
        (["--set", "problem=lm"], ["--set problem=lm", "`lineament run lm`"]),
    ],
)
def test_bad_input_is_exit_2_with_advice_and_nothing_written(
    change: list[str], words: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = lineament_here("run", "synthetic", "--preset", "quick", "--out", str(out), *change, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    for word in words:
        assert word in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
    assert not out.exists()


@pytest.mark.parametrize(
    "words",
    [["run", "synthetic"], ["run", "synthetic", "--vary", "recovery.lr=1e-3,2e-3"], ["run", "synthetic", "--dry-run"]],
)
def test_a_device_that_is_not_there_is_refused_before_anything_is_written(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    done = lineament_here(*words, "--preset", "quick", "--device", "cuda", "--out", "out", cwd=tmp_path)
    assert done.returncode == 2
    assert "--device cpu" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_diverging_run_fails_with_step_and_keeps_what_is_done(tmp_path: Path) -> None:
    out = tmp_path / "diverged"
    done = lineament_here(*arguments(out, **{"recovery.optimizer": "sgd", "recovery.lr": "1e12"}), "--seeds", "1")
    assert done.returncode == 1
    assert "step" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((out / "stages").glob("operating-*"))
    assert json.loads((out / "state.json").read_text())["jobs"]["seed0"]["status"] == "failed"


def test_interrupt_ends_with_advice_and_the_run_goes_on(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "interrupted"
    command = [sys.executable, "-m", "lineament.cli", *arguments(out), "--seeds", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    wait_for(lambda: list(out.glob("stages/damage-*")), process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "interrupted" in errors
    assert "--resume" in errors
    assert "Traceback" not in errors
    assert lineament_here(*arguments(out), "--seeds", "2", "--resume").returncode == 0
    assert record_bytes(out) == record_bytes(finished)


def test_full_disk_ends_with_advice_and_the_run_goes_on(finished: Path, tmp_path: Path) -> None:
    import resource

    out = tmp_path / "full"
    command = [sys.executable, "-m", "lineament.cli", *arguments(out), "--seeds", "1"]
    most_bytes = 50_000  # of one file: settings and states fit, points and recorded rows do not

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, preexec_fn=limit)
    assert done.returncode == 1, done.stderr
    assert "could not write" in done.stderr
    assert "--resume" in done.stderr
    assert "Traceback" not in done.stderr
    assert lineament_here(*arguments(out), "--seeds", "2", "--resume").returncode == 0
    assert record_bytes(out) == record_bytes(finished)


def test_log_file_gets_progress_even_when_quiet(finished: Path, tmp_path: Path) -> None:
    log = tmp_path / "progress.txt"
    done = lineament(*arguments(tmp_path / "out"), "--seeds", "1", "--quiet", "--log-file", str(log))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "seed 0: recovering copy" in log.read_text()
    refused = lineament_here(*arguments(tmp_path / "no"), "--log-file", str(tmp_path / "absent" / "log.txt"))
    assert refused.returncode == 2
    assert "does not exist" in refused.stderr
    assert not (tmp_path / "no").exists()


def test_keys_says_what_every_key_means() -> None:
    lines = lineament_here("keys").stdout.splitlines()
    assert "recovery.lr = 0.0002" in lines
    assert "    float, above 0: Step size of the recovery's optimizer." in lines
    meanings = [line for line in lines if line.startswith("    ")]
    assert len(meanings) >= len(KEYS)
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    "command",
    [["keys"], ["runs", "."], ["claims", "run"], ["claims", "run", "--json"], ["compare", "run", "run"], ["cache"]],
)
def test_commands_that_read_do_without_torch_and_scipy(command: list[str], tmp_path: Path) -> None:
    """They answer at once; the imports of what measures take seconds."""
    folder = RunFolder(tmp_path / "run")
    with folder.locked():
        folder.open(resolve("synthetic", "quick", []), resume=False)
    write_claims(folder.path, [], rank=10)
    code = (
        "import sys; from lineament.cli import main; code = main(sys.argv[1:]); "
        "print(code, {'torch', 'scipy', 'transformers', 'pyarrow'} & set(sys.modules), file=sys.stderr)"
    )
    line = [sys.executable, "-c", code, *command]
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, timeout=100, check=False)
    assert done.stderr == "0 set()\n"
    assert done.stdout


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "lineament", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("lineament 0.")


def test_a_run_prints_what_damage_did_to_every_task(copied: Path) -> None:
    out = copied
    done = lineament_here(*arguments(out), "--seeds", "1", "--resume")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "2 seeds" in lines[0]
    assert max(map(len, lines[:-1])) <= 80  # the last one is the report's path, which stays whole
    head = next(i for i, line in enumerate(lines) if line.split() == ["accuracy", "trained", "damaged", "recovered"])
    rows = {line.rsplit(maxsplit=3)[0].strip(): line.split()[-3:] for line in lines[head + 2 : head + 5]}
    assert set(rows) == {"copy (damaged)", "increment", "maximum"}
    captures = [record for record in load_records(out / "records") if record.measurement == "basis_capture"]
    for task, cells in rows.items():
        for point, cell in zip(("star", "broken", "recovered"), cells, strict=True):
            which = {"point": point, "task": task.split()[0], "statistic": "accuracy"}
            assert cell == f"{fmean(record.value('evaluation', **which) for record in captures):.2f}"
    assert head < next(i for i, line in enumerate(lines) if "prefix_captures" in line)
    assert "warning" not in done.stderr
    held = read_claims(out)
    sentences = " ".join(done.stdout.split())
    for claim in held:  # the table, a sentence for each verdict, then the report
        own = str(verdict_sentence(claim))
        assert own in sentences
        assert own.startswith(f"{claim.id}: It is open whether ") is (claim.verdict == "inconclusive")
    assert lines[-1] == f"report: {out / 'report.html'}"
    assert "done in" in done.stderr
    following = [line.partition("#")[0].strip() for line in done.stderr.splitlines() if line.startswith("  ")]
    assert len(following) == 3
    for command in following:
        assert cli._parsed(shlex.split(command.partition(">")[0])[1:])


@pytest.mark.parametrize(
    ("broken", "recovered", "warned", "header"),
    [
        ((0.1, 0.2), (0.9, 0.95), "", "recovered"),
        ((0.1, 0.8), (0.9, None), "in 1 of 2 seed(s)", "recovered (1 of 2 seeds)"),
        ((0.76, 0.99), (None, None), "in 2 of 2 seed(s)", "recovered (0 of 2 seeds)"),
    ],
)
def test_damage_that_left_the_target_recovered_is_warned_of(
    broken: tuple[float, float],
    recovered: tuple[float | None, float | None],
    warned: str,
    header: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    long = "a" * 60
    for seed in (0, 1):
        points = {"star": 0.8, "broken": broken[seed], "recovered": recovered[seed]}
        figures = [
            Quantity("evaluation", value, "fraction", labels={"point": point, "task": task, "statistic": "accuracy"})
            for point, value in points.items()
            for task in ("sort", long)
            if value is not None
        ]
        record = Record("basis_capture", "sort", seed, "synthetic", "m", "full", 9, "h", tuple(figures), {})
        record.save(tmp_path / "records")
    print_summary(tmp_path, [], resolve("synthetic", "quick", [("test", {"task.targets": "sort"})]))
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert max(map(len, lines[:-1])) <= 80  # the last one is the report's path, which stays whole
    assert next(line for line in lines if "accuracy" in line).rstrip().endswith(header)
    means = [f"{sum(broken) / 2:.2f}", "-" if recovered[0] is None else f"{fmean(filter(None, recovered)):.2f}"]
    assert next(line for line in lines if "sort (damaged)" in line).split()[-3:] == ["0.80", *means]
    if warned:
        assert warned in shown.err
        assert "damage.steps" in shown.err
    else:
        assert shown.err == ""


def test_second_writer_is_refused(copied: Path) -> None:
    import fcntl

    with (copied / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        done = lineament(*arguments(copied), "--seeds", "2", "--resume")
    assert done.returncode == 2
    assert "another process" in done.stderr


def test_version_and_help() -> None:
    assert lineament("--version").stdout.startswith("lineament ")
    assert "run" in lineament("--help").stdout
