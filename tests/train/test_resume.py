"""A run that was interrupted, wherever and however, ends as one that was not; another run is not mistaken for it."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from train.run import UNFINISHED, is_whole
from train.sft import main

from ..conftest import ROOT, command, succeed
from .runs import RECIPE, differences, environment, final_state, flags, launched, logged, records, tree

FAULTY = "tests/train/sft_with_faults.py"
LAUNCH = ("-m", "accelerate.commands.launch", "--config_file")


def killed(kind: str, processes: int, given: tuple[str, ...], when: str) -> None:
    """Begin or go on, up to a SIGKILL."""
    done = command(*launched(*given, processes=processes, script=FAULTY), env=environment(KOALA_DIE=when))
    if processes == 1:
        assert done.returncode == -signal.SIGKILL, done.stderr
    else:  # the launcher reports the death of one, and ends the others
        assert done.returncode == 1, done.stderr
        assert "Signal 9 (SIGKILL)" in done.stderr


def steps_told(stdout: str) -> list[int]:
    """The steps of which the console told the loss."""
    told = re.compile(r"^step (\d+)/12  loss ", re.MULTILINE)
    return [int(step) for step in told.findall(stdout)]


@pytest.fixture(scope="module")
def interrupted(mixture, base, tmp_path_factory) -> Path:
    """A run in one process that was killed while it saved its ninth step, three after its last checkpoint."""
    out = tmp_path_factory.mktemp("interrupted") / "out"
    killed("full", 1, flags("full", 1, mixture, base, out), "saving:9")
    return out


@pytest.mark.parametrize(
    ("kind", "processes", "deaths"),
    [
        ("full", 1, ("saving:9",)),
        pytest.param("full", 1, ("step:8",), marks=pytest.mark.slow),
        pytest.param("full", 2, ("step:8", "saving:9"), marks=pytest.mark.slow),
        pytest.param("lora", 1, ("step:8", "saving:9"), marks=pytest.mark.slow),
        pytest.param("lora", 2, ("step:8", "saving:9"), marks=pytest.mark.slow),
    ],
)
def test_sigkill_between_and_during_saving_changes_no_bit(
    kind, processes, deaths, mixture, base, straight, tmp_path, request
):
    out = tmp_path / "out"
    given = flags(kind, processes, mixture, base, out)
    expected = straight(kind, processes).out
    for death in deaths:
        if (kind, processes, death) == ("full", 1, "saving:9"):
            shutil.copytree(request.getfixturevalue("interrupted"), out)
        else:
            killed(kind, processes, given, death)
        steps = int(death.split(":")[1])
        assert logged(out, "loss") == logged(expected, "loss")[:steps]
        assert (out / UNFINISHED).is_file()
        assert not (out / "koala.json").exists()
        assert [step for step in (3, 6, 9) if is_whole(out / f"checkpoint-{step}")] == [3, 6]
    torn = out / "checkpoint-9"
    assert (torn / "optimizer.pt").is_file() == ("saving:9" in deaths)

    done = succeed(*launched(*given, processes=processes), env=environment())
    assert steps_told(done.stdout) == [7, 8, 9, 10, 11, 12]  # six, and six more
    assert is_whole(torn)  # it was made anew
    assert not (out / UNFINISHED).exists()
    assert records(out) == records(expected)
    assert differences(final_state(out, kind), final_state(expected, kind)) == []


def test_the_comparison_sees_one_bit(straight):
    import torch

    state, other = (final_state(straight("full", 1).out, "full") for _ in range(2))
    assert differences(state, other) == []
    moments = other["optimizer.pt"]["state"][0]
    moments["exp_avg"].view(-1)[0] = torch.nextafter(moments["exp_avg"].view(-1)[0], torch.tensor(9.0))
    assert differences(state, other) == ["/optimizer.pt/state/0/exp_avg"]


def test_an_epoch_ends_within_these_runs(straight):
    """Else the tests above would show less than they say."""
    run = straight("full", 1)
    epochs = logged(run.out, "epoch")
    assert epochs[0] < 1 < epochs[-1]
    (line,) = (line for line in run.stdout.splitlines() if line.startswith("train: "))
    rows = int(line.split(" tokens in ")[1].split()[0])
    assert rows % 8  # so that the epoch's last step needs fillers


# --- SIGTERM ----------------------------------------------------------------------------------------------------------


def stop_after_a_record(arguments: tuple[str, ...], out: Path) -> tuple[int, str]:
    """Start a run, send its first process SIGTERM when it has logged a step, and return its exit code and output."""
    deadline = time.monotonic() + 120
    log = out.with_suffix(".log")
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, env=environment()
        )
        try:
            while not ((out / "metrics.jsonl").exists() and logged(out, "loss")):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.01)
            process.terminate()
            code = process.wait(60)
        finally:
            process.kill()
        while running(out):  # a process that lost its launcher has a step to finish and a checkpoint to save
            assert time.monotonic() < deadline, running(out)
            time.sleep(0.05)
    return code, log.read_text()


def running(out: Path) -> list[str]:
    """The processes that have this folder among their arguments (where the kernel tells)."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = file.read_bytes().split(b"\0")
        except OSError:  # it has ended
            continue
        if os.fsencode(str(out)) in arguments:
            found.append(file.parent.name)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["python", "one_gpu.yaml", "cpu.yaml", "cpu.yaml, two processes"])
def test_sigterm_saves_and_the_same_command_goes_on(launcher, mixture, base, straight, tmp_path):
    out, processes = tmp_path / "out", 2 if "two" in launcher else 1
    given = flags("full", processes, mixture, base, out)
    arguments = {
        "python": launched(*given),
        "one_gpu.yaml": (*LAUNCH, "train/accelerate/one_gpu.yaml", *launched(*given)),
        "cpu.yaml": (*LAUNCH, "train/accelerate/cpu.yaml", *launched(*given)),
        "cpu.yaml, two processes": launched(*given, processes=2),
    }[launcher]
    code, told = stop_after_a_record(arguments, out)
    if launcher == "python":
        assert code == 143
    else:
        assert code != 0
    (stopped,) = (line for line in told.splitlines() if line.startswith("stopped by SIGTERM"))
    assert stopped.endswith(f"in {out}; the same command goes on from there")
    step = int(stopped.split("saved after step ")[1].split()[0])
    assert 1 <= step < 12
    assert is_whole(out / f"checkpoint-{step}")
    assert (out / UNFINISHED).is_file()
    assert not (out / "koala.json").exists()

    done = succeed(*arguments, env=environment())
    assert steps_told(done.stdout) == list(range(step + 1, 13))
    expected = straight("full", processes).out
    assert records(out) == records(expected)
    assert differences(final_state(out, "full"), final_state(expected, "full")) == []


# --- Another run ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other_mixture(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("other") / "mixture"
    succeed("-m", "datasets_cfg", "build", "demo", "--out", out, "--seed", 7)
    return out


@pytest.fixture(scope="module")
def other_tokenizer(base, tmp_path_factory) -> Path:
    """The base, whose tokenizer has one merge less."""
    import json

    out = shutil.copytree(base, tmp_path_factory.mktemp("other") / base.name)
    tokenizer = json.loads((out / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["model"]["merges"].pop()
    (out / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    return out


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("--learning_rate", "0.5"), "learning_rate (0.002 there, 0.5 here)"),
        (("--gradient_accumulation_steps", "4"), "rows_per_step (8 there, 4 here)"),
        (("--max_steps", "13"), "max_steps (12 there, 13 here)"),
        (("--use_peft", "true"), "use_peft (False there, True here)"),
        (("--seed", "7", "--dropout", "0.1"), "dropout and seed (0.0 there, 0.1 here, 42 there, 7 here)"),
        ("other_mixture", "mixture ("),
        ("other_tokenizer", "tokenizer and model_name_or_path ("),
    ],
    ids=str,
)
def test_another_run_is_refused_by_what_differs(change, named, mixture, base, interrupted, capsys, request):
    before = tree(interrupted)
    given = flags("full", 1, mixture, base, interrupted)
    if isinstance(change, str):
        key = {"other_mixture": "--mixture", "other_tokenizer": "--model_name_or_path"}[change]
        change = (key, str(request.getfixturevalue(change)))
    assert main([*RECIPE, *given, *change]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{interrupted} holds an unfinished run with another {named}" in line
    assert line.endswith("choose another output_dir, or pass --overwrite to start over")
    assert tree(interrupted) == before


@pytest.mark.slow
def test_how_often_it_logs_may_change(mixture, base, interrupted, straight, tmp_path):
    out = shutil.copytree(interrupted, tmp_path / "out")
    given = flags("full", 1, mixture, base, out)
    done = succeed(*launched(*given, "--logging_steps", 2), env=environment())
    assert steps_told(done.stdout) == [8, 10, 12]
    expected = final_state(straight("full", 1).out, "full")
    found = final_state(out, "full")
    assert differences(found["finished"], expected["finished"]) == []
    assert differences(found["optimizer.pt"], expected["optimizer.pt"]) == []
    assert [record["step"] for record in records(out) if "loss" in record] == [1, 2, 3, 4, 5, 6, 8, 10, 12]


@pytest.mark.slow
def test_overwrite_starts_over(mixture, base, interrupted, straight, tmp_path):
    out = shutil.copytree(interrupted, tmp_path / "out")
    given = flags("full", 1, mixture, base, out)
    done = succeed(*launched(*given, "--overwrite", "true", "--seed", 7), env=environment())
    assert steps_told(done.stdout) == list(range(1, 13))
    assert logged(out, "loss") != logged(straight("full", 1).out, "loss")
    assert [record["step"] for record in records(out) if "loss" in record] == list(range(1, 13))
