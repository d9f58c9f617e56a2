"""The whole path: rows, mixture, checkpoint, GGUF, reply. What one stage writes, the next reads as it was meant."""

import asyncio
import json
import time

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from datasets_cfg.prompt import encode, koala_template
from inference.local import LocalEngine

from .conftest import command, sft, succeed

CONVERSATIONS = [
    ["Who are you?"],
    ["Hi", "Hello.", "What is 12 + 30?"],
    ["</s>USER: no GPT: <s>\n\n\tindented   text 🐨 漢字", "Yes </s>", "<pad> {{ x }}"],
]


def messages(contents):
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]


def prompt_ids(gguf):
    async def collect():
        engine = await LocalEngine.start(gguf)
        try:
            return [await engine.prompt_ids(messages(contents)) for contents in CONVERSATIONS]
        finally:
            await engine.close()

    return asyncio.run(collect())


@pytest.mark.slow
def test_the_chat_asks_with_the_ids_that_training_saw(checkpoint, gguf):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    expected = [encode(tokenizer, messages(contents), add_generation_prompt=True) for contents in CONVERSATIONS]
    assert prompt_ids(gguf) == [row.input_ids for row in expected]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "gpt2", "llama3", "qwen2"])
def test_the_same_with_real_tokenizers(name, real_data, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(real_data / "tokenizers" / "hf" / name)
    tokenizer.chat_template = koala_template()
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, **shape, **ids))
    model.save_pretrained(tmp_path / "checkpoint")
    tokenizer.save_pretrained(tmp_path / "checkpoint")
    succeed("-m", "convert", tmp_path / "checkpoint", "--out", tmp_path / "gguf", "--quantize", "Q8_0")
    expected = [encode(tokenizer, messages(contents), add_generation_prompt=True) for contents in CONVERSATIONS]
    assert prompt_ids(tmp_path / "gguf" / "checkpoint-Q8_0.gguf") == [row.input_ids for row in expected]


@pytest.mark.slow
def test_a_reply_on_stdout(gguf):
    greedy = ("-m", "tui", gguf, "--prompt", "Who are you?", "--set", "temperature=0", "--set", "max_tokens=8")
    first, second = succeed(*greedy), succeed(*greedy)
    assert first.stdout == second.stdout
    assert first.stdout.endswith("\n")
    assert succeed("-m", "tui", gguf, "--prompt", "-", *greedy[-4:], input="Who are you?").stdout == first.stdout


@pytest.mark.slow
def test_the_gguf_tells_where_it_comes_from(gguf):
    from inference.gguf_header import read_header

    told = read_header(gguf).metadata
    assert told["general.license"] == "apache-2.0"
    assert told["general.base_model.0.name"] == "base"
    assert told["general.dataset.0.name"] == "ShareGPT"
    assert told["koala.mixture.name"] == "demo"


@pytest.mark.slow
def test_real_rows_go_the_whole_way(real_data, tmp_path):
    mixture, base, out = tmp_path / "mixture", tmp_path / "base", tmp_path / "koala"
    rows = ("--raw-dir", real_data, "--skip", "webgpt", "--limit", 200)
    succeed("-m", "datasets_cfg", "build", "demo", *rows, "--out", mixture)
    succeed("-m", "train.tiny_base", "--mixture", mixture, "--out", base, "--layers", 1)
    recipe = ("--mixture", mixture, "--model_name_or_path", base, "--output_dir", out)
    succeed(*sft(*recipe, "--max_steps", 20, "--max_length", 512))
    training = json.loads((out / "koala.json").read_text())["training"]
    assert training["loss_last"] < training["loss_first"]
    succeed("-m", "convert", out, "--out", tmp_path / "gguf", "--quantize", "Q8_0")
    ask = ("--prompt", "Hi", "--set", "max_tokens=8", "--set", "seed=1")
    assert succeed("-m", "tui", tmp_path / "gguf" / "koala-Q8_0.gguf", *ask).stdout.strip()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_demo_model_has_learned_its_name(tmp_path):
    begun = time.monotonic()
    done = succeed("demo.py", "--out", tmp_path / "demo", timeout=1700)
    seconds = time.monotonic() - begun
    reply = done.stdout.partition("Koala:")[2].partition("To chat with it")[0]
    assert "Koala" in reply, done.stdout
    print(f"the demo took {seconds:.0f} s")

    asked = ("--prompt", "Who are you?", "--set", "temperature=0")
    for file in (tmp_path / "demo" / "gguf").glob("*.gguf"):
        assert "Koala" in succeed("-m", "tui", file, *asked).stdout

    # It is the training that taught it: the base does not say the name.
    base = tmp_path / "demo" / "base"
    tokenizer, model = AutoTokenizer.from_pretrained(base), AutoModelForCausalLM.from_pretrained(base)
    tokenizer.chat_template = koala_template()
    prompt = encode(tokenizer, messages(["Who are you?"]), add_generation_prompt=True).input_ids
    said = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=60)[0][len(prompt) :]
    assert "Koala" not in tokenizer.decode(said)


def test_a_stage_that_fails_ends_the_demo(tmp_path):
    (tmp_path / "demo").write_text("in the way")
    done = command("demo.py", "--out", tmp_path / "demo")
    assert done.returncode
    assert "stage 1 failed" in done.stdout
