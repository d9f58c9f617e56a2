"""The options of the command, each as a person uses it."""

import errno
import json
import signal
import subprocess
import sys

import pytest

from convert.__main__ import main

from ..conftest import ROOT


def report_of(out):
    return json.loads((out / "report.json").read_text())


@pytest.fixture(scope="module")
def wide(make_checkpoint, tmp_path_factory):
    """A model whose rows are as wide as the types of few bits want them."""
    return make_checkpoint(
        tmp_path_factory.mktemp("wide") / "wide", hidden_size=256, intermediate_size=256, initializer_range=0.05
    )


@pytest.mark.slow
def test_files_are_measured_on_a_mixture_with_an_importance_matrix_of_it(wide, mixture, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--quantize", "Q8_0", "IQ2_XS", "--imatrix", str(mixture), "--imatrix-tokens", "2000"]
    assert main([str(wide), "--out", str(out), *arguments]) == 0
    printed = capsys.readouterr()
    report = report_of(out)
    assert (report["mixture"], report["imatrix"]) == ("demo", "demo")
    assert report["transformers"]["token_ids"]["of_the_mixture"] > 0
    assert report["transformers"]["top1"] == 1.0
    q8, iq2 = (file["against_unquantized"] for file in report["files"])
    assert 0 < q8["kld"] < iq2["kld"]
    assert q8["perplexity"] != q8["reference_perplexity"] == iq2["reference_perplexity"]
    assert (out / "wide-imatrix.gguf").read_bytes()[:4] == b"GGUF"
    assert "held-out conversations of the mixture demo" in (out / "report.md").read_text()
    assert "importance matrix: done" in printed.err

    # llama.cpp's own file of a matrix is read as well as made.
    again = tmp_path / "again"
    arguments = ["--quantize", "IQ2_XS", "--imatrix", str(out / "wide-imatrix.gguf"), "--no-verify", "--quiet"]
    assert main([str(wide), "--out", str(again), *arguments]) == 0
    assert report_of(again)["verified"] is False
    assert "It was not" in (again / "report.md").read_text()


def test_auto_picks_what_fits(wide, tmp_path, capsys):
    assert main([str(wide), "--out", str(tmp_path / "a"), "--quantize", "auto", "--ram", "8G", "--no-verify"]) == 0
    assert (tmp_path / "a" / "wide-Q8_0.gguf").exists()
    assert "auto: Q8_0 is the best type that fits" in capsys.readouterr().err
    assert main([str(wide), "--out", str(tmp_path / "b"), "--quantize", "auto", "--ram", "10M", "--no-verify"]) == 2
    assert "does not fit into --ram" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()
    assert main([str(wide), "--out", str(tmp_path / "b"), "--quantize", "auto"]) == 2
    assert "--quantize auto and --ram go together" in capsys.readouterr().err


def test_large_files_are_split(wide, tmp_path):
    out = tmp_path / "out"
    assert main([str(wide), "--out", str(out), "--split-max-size", "400k", "--no-verify", "--quiet"]) == 0
    names = [file["name"] for file in report_of(out)["files"][0]["files"]]
    assert len(names) > 1
    assert names == [f"wide-Q8_0-{n:05}-of-{len(names):05}.gguf" for n in range(1, len(names) + 1)]
    assert names == sorted(path.name for path in out.glob("*.gguf"))
    assert all((out / name).stat().st_size <= 400_000 for name in names)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--imatrix", "nothing.txt"], "there is no such mixture or file"),
        (["--imatrix", "{tmp}/bytes.txt"], "is not text in UTF-8"),
        (["--imatrix", "{tmp}"], "datasets_cfg build"),
        (["--mixture", "{tmp}"], "datasets_cfg build"),
        (["--base", "{wide}"], "is a whole model, not an adapter"),
        (["--adapter-only"], "is a whole model, not a PEFT adapter"),
        (["--adapter-only", "--quantize", "Q8_0"], "an adapter file is one of F32, BF16, F16"),
        (["--adapter-only", "--split-max-size", "1G"], "--split-max-size: an adapter file is small"),
        (["--split-max-size", "much"], "--split-max-size much"),
        (["--ram", "0"], "--ram 0"),
    ],
)
def test_an_option_that_cannot_be_is_a_sentence(wide, tmp_path, capsys, arguments, message):
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    out = tmp_path / "out"
    assert main([str(wide), "--out", str(out), *(part.format(tmp=tmp_path, wide=wide) for part in arguments)]) == 2
    printed = capsys.readouterr().err
    assert message in printed and printed.splitlines()[-1].startswith("error: ")
    assert not out.exists()


def test_a_mixture_that_the_model_cannot_be_asked_in_is_refused(broken, mixture, tmp_path, capsys):
    arguments = [str(broken), "--out", str(tmp_path / "out"), "--mixture", str(mixture)]
    (broken / "chat_template.jinja").write_text(
        "{% if messages[0].content != 'Who are you?' %}{{ raise_exception('no') }}{% endif %}{{ messages[0].content }}"
    )
    assert main(arguments) == 2
    assert "the model's chat template refuses its conversations" in capsys.readouterr().err
    (broken / "chat_template.jinja").unlink()
    assert main(arguments) == 2
    assert "the checkpoint has no chat template for conversations" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_an_earlier_conversion_left_does_not_contradict_this_one(wide, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [str(wide), "--out", str(out), "--no-verify", "--quiet", "--overwrite"]
    assert main([*arguments, "--quantize", "Q8_0", "F32"]) == 0
    assert (out / "Modelfile").exists()
    assert main([*arguments, "--split-max-size", "400k"]) == 0
    assert not (out / "Modelfile").exists() and not (out / "wide-Q8_0.gguf").exists()
    assert (out / "wide-F32.gguf").exists() and len(list(out.glob("wide-Q8_0-0*.gguf"))) > 1
    assert main([*arguments, "--split-max-size", "10k"]) == 2
    assert "choose a larger --split-max-size" in capsys.readouterr().err


def test_a_disk_without_room_is_a_sentence(wide, tmp_path, capsys, monkeypatch):
    import gguf

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(gguf.GGUFWriter, "write_tensor_data", full)
        assert main([str(wide), "--out", str(tmp_path / "out"), "--no-verify", "--quiet"]) == 2
    assert "is full" in capsys.readouterr().err
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    assert main([str(wide), "--out", str(tmp_path / "out"), "--no-verify", "--quiet"]) == 2
    assert "the unquantized file takes" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("stage", ["write F32", "quantize Q4_0", "llama.cpp, F32", "transformers", "verify Q4_0"])
def test_a_run_that_is_ended_leaves_no_file_under_its_name(wide, tmp_path, number, stage):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "convert", wide, "--out", out, "--threads", "1", "--quantize", "Q8_0", "Q4_0"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    for line in process.stderr:
        if line.startswith(stage):
            break
    process.send_signal(number)
    process.communicate()
    assert process.returncode in {signal.SIGINT: (130,), signal.SIGTERM: (143,), signal.SIGKILL: (-9,)}[number]
    if number == signal.SIGKILL:
        assert [path.name for path in out.iterdir()] == [".convert.partial"]
    else:
        assert not out.exists()
