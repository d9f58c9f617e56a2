"""The command as a person types it, on small models."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from convert.__main__ import main
from convert.template import without_generation_tags
from datasets_cfg.prompt import koala_template

REPOSITORY = Path(__file__).parents[2]
TYPES = ("F32", "BF16", "Q8_0", "Q4_K_M")
BESIDE = ("Modelfile", "README.md", "report.json", "report.md", "size_kld.png")


@pytest.fixture(scope="module")
def converted(make_checkpoint, tmp_path_factory):
    """A sharded bfloat16 checkpoint with tied heads, llama3 rope, biases and vocabulary padding, and its GGUFs."""
    folder = make_checkpoint(
        tmp_path_factory.mktemp("converted") / "koala tiny",
        dtype="bfloat16",
        max_shard_size="300KB",
        tie_word_embeddings=True,
        vocab_size=384,
        hidden_size=256,
        intermediate_size=256,
        attention_bias=True,
        mlp_bias=True,
        initializer_range=0.05,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    )
    assert (folder / "model.safetensors.index.json").exists()
    (folder / "README.md").write_text("---\nlicense: apache-2.0\nbase_model: koala/base\nlanguage: en\n---\n")
    (folder / "koala.json").write_text('{"recipe": "demo", "seed": 3}')
    out = folder.with_name("gguf")
    command = [sys.executable, "-m", "convert", folder, "--out", out, "--threads", "1", "--quantize", *TYPES]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder, out, done


def read(path):
    from gguf import GGUFReader

    return GGUFReader(path)


def test_the_files_stand_under_their_names_and_nothing_else(converted):
    _, out, done = converted
    ggufs = [f"koala tiny-{name}.gguf" for name in TYPES]
    assert sorted(path.name for path in out.iterdir()) == sorted([*ggufs, *BESIDE])
    assert f"Next: koala-tui '{out}/koala tiny-F32.gguf'" in done.stdout
    for name in TYPES:
        assert re.search(rf"{name}\.gguf\b.*(%|unquantized)", done.stdout)
    assert "The BF16 file is the model of the checkpoint" in done.stdout
    assert "llama_" not in done.stdout
    assert "verify Q4_K_M: done" in done.stderr


def test_the_tensors_are_those_of_transformers(converted):
    from transformers import AutoModelForCausalLM

    folder, out, _ = converted
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    expected = {name: tensor.float().numpy() for name, tensor in model.state_dict().items()}
    for name in ("F32", "BF16"):
        found = {tensor.name: tensor for tensor in read(out / f"koala tiny-{name}.gguf").tensors}
        assert "output.weight" not in found
        assert len(found) == len(expected) - 1 + 1  # without the tied head, with rope_freqs
        for layer in range(2):
            for part, heads in (("q", 4), ("k", 2)):
                for kind in ("weight", "bias"):
                    actual = as_floats(found[f"blk.{layer}.attn_{part}.{kind}"])
                    source = expected[f"model.layers.{layer}.self_attn.{part}_proj.{kind}"]
                    halves = actual.reshape(heads, -1, 2, *actual.shape[1:]).swapaxes(1, 2).reshape(actual.shape)
                    np.testing.assert_array_equal(halves, source)
            np.testing.assert_array_equal(
                as_floats(found[f"blk.{layer}.ffn_down.weight"]), expected[f"model.layers.{layer}.mlp.down_proj.weight"]
            )
            norm = found[f"blk.{layer}.ffn_norm.weight"]
            assert norm.tensor_type.name == "F32"
            np.testing.assert_array_equal(
                as_floats(norm), expected[f"model.layers.{layer}.post_attention_layernorm.weight"]
            )
        np.testing.assert_array_equal(as_floats(found["token_embd.weight"]), expected["model.embed_tokens.weight"])


def as_floats(tensor):
    if tensor.tensor_type.name == "BF16":
        return (tensor.data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return tensor.data


def test_the_metadata_says_what_the_model_is(converted):
    _, out, _ = converted
    fields = read(out / "koala tiny-Q8_0.gguf").fields
    expected = {
        "general.architecture": "llama",
        "general.name": "koala tiny",
        "general.license": "apache-2.0",
        "general.base_model.0.name": "koala/base",
        "general.languages": ["en"],
        "koala.recipe": "demo",
        "koala.seed": "3",
        "koala.verified": True,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.context_length": 512,
        "llama.vocab_size": 384,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": without_generation_tags(koala_template()),
    }
    assert {key: fields[key].contents() for key in expected} == expected
    tokens = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    assert (tokens[:3], types[:3]) == (["<s>", "</s>", "<pad>"], [3, 3, 3])
    assert (tokens[-1], types[-1]) == ("[PAD383]", 5)


def test_one_reply_comes_from_the_file(converted):
    from llama_cpp import Llama

    _, out, _ = converted
    model = Llama(str(out / "koala tiny-Q4_K_M.gguf"), n_ctx=128, verbose=False)
    reply = model.create_chat_completion([{"role": "user", "content": "Who are you?"}], max_tokens=4)
    assert reply["usage"]["completion_tokens"] > 0


def test_a_model_without_a_chat_template_is_converted_with_a_note(broken, tmp_path, capsys):
    (broken / "chat_template.jinja").unlink()
    assert main([str(broken), "--out", str(tmp_path / "o")]) == 0
    assert "no chat template" in capsys.readouterr().err
    assert "tokenizer.chat_template" not in read(tmp_path / "o" / "broken-Q8_0.gguf").fields


def test_of_several_templates_the_default_is_taken(broken, edit_json, tmp_path):
    template = (broken / "chat_template.jinja").read_text()
    (broken / "chat_template.jinja").unlink()
    named = [{"name": "default", "template": template}, {"name": "tool_use", "template": "tools"}]
    edit_json(broken / "tokenizer_config.json", chat_template=named)
    assert main([str(broken), "--out", str(tmp_path / "o"), "--quiet"]) == 0
    fields = read(tmp_path / "o" / "broken-Q8_0.gguf").fields
    assert fields["tokenizer.chat_template"].contents() == without_generation_tags(template)


def test_a_model_without_a_bos_token_is_asked_without_one_everywhere(broken, edit_json, tmp_path):
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    edit_json(broken / "tokenizer_config.json", bos_token=None)
    assert main([str(broken), "--out", str(tmp_path / "o"), "--quiet", "--no-verify"]) == 0
    template = read(tmp_path / "o" / "broken-Q8_0.gguf").fields["tokenizer.chat_template"].contents()
    # Of a file that names none, llama.cpp takes token 11 for the beginning of sequence.
    asked = Jinja2ChatFormatter(template=template, bos_token=")", eos_token="</s>")
    prompt = asked(messages=[{"role": "user", "content": "hi"}]).prompt
    assert prompt == "BEGINNING OF CONVERSATION: USER: hi GPT:"


def test_help_is_quick_and_light():
    code = (
        "import sys, convert.__main__ as command\n"
        "try: command.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'datasets', 'llama_cpp', 'gguf', 'numpy'} & set(sys.modules)))"
    )
    begin = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert time.monotonic() - begin < 2  # 0.1 s on an idle machine
    assert done.stdout.startswith("usage: python -m convert")
    assert done.stdout.endswith("[]\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--out", "{tmp}/o"], "nowhere is not there; give the folder of a checkpoint"),
        (["{checkpoint}", "--out", "{tmp}/o", "--quantize", "Q9"], "there is no such type"),
        (["{checkpoint}", "--out", "{tmp}/o", "--name", "a/b"], "cannot hold a path"),
        (["{checkpoint}", "--out", "{checkpoint}/.."], "is not empty; choose another or pass --overwrite"),
        (["{checkpoint}", "--out", "{checkpoint}"], "is the folder of the model itself"),
        (["{checkpoint}", "--out", "{tmp}/o", "--name", "a" * 300], "up to 200 bytes"),
        (["{checkpoint}", "--out", "{tmp}/o", "--name", "a\x1b[31m"], "letters that can be printed"),
        (["{checkpoint}", "--out", "{checkpoint}/config.json"], "is a file"),
    ],
)
def test_bad_input_is_a_sentence_and_exit_code_2(checkpoint, tmp_path, capsys, arguments, message):
    assert main([part.format(checkpoint=checkpoint, tmp=tmp_path) for part in arguments]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert printed.out == ""
    assert not (tmp_path / "o").exists()


def test_overwrite_replaces_its_own_files_and_keeps_the_others(checkpoint, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "tiny-Q8_0.gguf").write_text("old")
    arguments = [str(checkpoint), "--out", str(tmp_path), "--no-verify", "--quiet"]
    assert main(arguments) == 2
    assert main([*arguments, "--overwrite"]) == 0
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "tiny-Q8_0.gguf").read_bytes()[:4] == b"GGUF"
    assert {"notes.txt", "tiny-Q8_0.gguf"} <= {path.name for path in tmp_path.iterdir()}
    assert capsys.readouterr().out == ""
    assert read(tmp_path / "tiny-Q8_0.gguf").fields["koala.verified"].contents() is False


def test_two_conversions_do_not_share_a_folder(checkpoint, tmp_path, capsys):
    import fcntl

    handle = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert main([str(checkpoint), "--out", str(tmp_path), "--no-verify"]) == 2
    finally:
        os.close(handle)
    assert "another conversion is writing into" in capsys.readouterr().err


def test_wrong_weights_are_found_out(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("convert.architecture.permute", lambda weights, heads: weights)
    assert main([str(checkpoint), "--out", str(tmp_path / "o"), "--quantize", "F32"]) == 1
    assert "F32: its predictions are" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_one_wrong_layer_is_found_out_in_a_type_that_rounds(converted, tmp_path, capsys, monkeypatch):
    from convert.architecture import permute

    calls = iter(range(100))
    monkeypatch.setattr("convert.architecture.permute", lambda w, heads: permute(w, heads) if next(calls) else w)
    assert main([str(converted[0]), "--out", str(tmp_path / "o"), "--quantize", "Q2_K"]) == 1
    assert "error: BF16: its predictions" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_a_type_too_small_for_the_model_is_not_given_out(checkpoint, tmp_path, capsys, monkeypatch):
    from convert.file_types import Limits, limits

    strict = {"Q4_0": Limits(kld=1e-9), "F32": Limits(kld=0)}
    monkeypatch.setattr("convert.verification.limits", lambda name: strict.get(name, limits(name)))
    monkeypatch.setattr("convert.verification.unquantized_limits", lambda config, name: limits(name))
    assert main([str(checkpoint), "--out", str(tmp_path / "o"), "--quantize", "Q8_0", "Q4_0"]) == 1
    assert re.search("error: Q4_0: .* nats .*choose a larger type", capsys.readouterr().err)
    assert not (tmp_path / "o").exists()


def test_a_token_that_must_end_an_answer_does(broken, edit_json, tmp_path, capsys):
    edit_json(broken / "generation_config.json", eos_token_id=[1, 2])
    assert main([str(broken), "--out", str(tmp_path / "o"), "--quiet"]) == 0
    fields = read(tmp_path / "o" / "broken-Q8_0.gguf").fields
    assert fields["tokenizer.ggml.eot_token_id"].contents() == 2


def test_a_type_that_needs_an_importance_matrix_is_refused(converted, tmp_path, capsys):
    arguments = [str(converted[0]), "--out", str(tmp_path / "o"), "--quantize", "Q8_0", "IQ1_S"]
    assert main(arguments) == 2
    assert "IQ1_S needs an importance matrix" in capsys.readouterr().err


def test_what_llama_cpp_says_and_how_it_ends_is_told(tmp_path, monkeypatch):
    from convert.child import ChildFailed, run_child

    (tmp_path / "aborting.py").write_text("import os\nos.abort()\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(ChildFailed, match=r"llama\.cpp ended with SIGABRT"):
        run_child("aborting", {}, lambda report: None)
    request = {"source": str(tmp_path / "no.gguf"), "target": str(tmp_path / "x.gguf"), "number": 7, "threads": 1}
    with pytest.raises(ChildFailed, match=r"the quantizer returned 1 \(.*failed to"):
        run_child("convert.quantize", request, lambda report: None)


@pytest.mark.slow
def test_a_killed_run_leaves_no_file_and_the_next_one_succeeds(checkpoint, tmp_path):
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "convert",
        checkpoint,
        "--out",
        out,
        "--threads",
        "1",
        "--quantize",
        "Q8_0",
        "F32",
        "Q4_0",
    ]
    process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    for line in process.stderr:
        if line.startswith("verify Q8_0"):
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    assert [path.name for path in out.iterdir()] == [".convert.partial"]
    assert main([str(checkpoint), "--out", str(out), "--quiet", "--no-verify"]) == 0
    assert "tiny-Q8_0.gguf" in [path.name for path in out.iterdir()]
