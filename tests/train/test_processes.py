"""What is learned, and what is told of it, does not depend on how many processes share the work."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from train.mixture import load_split

from ..conftest import command, succeed
from .runs import environment, logged, records, weights

SLOW = pytest.mark.slow


@pytest.mark.parametrize("processes", [pytest.param(2, marks=SLOW), pytest.param(4, marks=SLOW)])
def test_the_curves_are_those_of_one_process(processes, straight):
    one, several = (straight("full", count) for count in (1, processes))
    assert several.stdout.count("conversations, ") == 2  # train and eval: one process speaks for all
    expected, found = records(one.out), records(several.out)
    assert [record.keys() for record in found] == [record.keys() for record in expected]
    assert max(record["epoch"] for record in found) > 1
    for record, other in zip(found, expected, strict=True):
        assert record == pytest.approx(other, rel=1e-4, abs=1e-6), record["step"]
    # What is counted is counted exactly.
    for key in ("step", "epoch", "num_tokens", "padding_share", "eval_tokens"):
        assert logged(several.out, key) == logged(one.out, key)
    trained = [{name for name in record if name.startswith("loss/")} for record in found]
    assert len(set.union(*trained)) == 8  # all sources of the mixture


@SLOW
def test_adapters_of_two_processes_are_the_same_but_for_their_dropout(straight):
    one, two = (straight("lora", count).out for count in (1, 2))
    assert logged(two, "num_tokens") == logged(one, "num_tokens")
    # Dropout is drawn anew by each process.
    assert logged(two, "loss") == pytest.approx(logged(one, "loss"), rel=0.02)


@pytest.fixture(scope="module")
def alone(base, mixture, straight) -> dict[str, list[tuple[float, int]]]:
    """By source, the summed loss of each conversation of the eval split and its trained tokens.

    By plain transformers, one conversation at a time, with the mask that it makes of the chat template.
    """
    out = straight("full", 1).out
    tokenizer, model = AutoTokenizer.from_pretrained(out), AutoModelForCausalLM.from_pretrained(out).eval()
    found: dict[str, list[tuple[float, int]]] = {}
    for row in load_split(mixture, "eval"):
        encoded = tokenizer.apply_chat_template(
            row["messages"], return_dict=True, return_assistant_tokens_mask=True, **row["chat_template_kwargs"]
        )
        ids, mask = torch.tensor([encoded["input_ids"]]), torch.tensor([encoded["assistant_masks"]])
        assert ids.shape[1] <= 512  # none is cut in training
        with torch.no_grad():
            loss = model(input_ids=ids, labels=ids.masked_fill(mask == 0, -100)).loss.item()
        tokens = int(mask.sum())
        found.setdefault(row["source"], []).append((loss * tokens, tokens))
    return found


def mean(losses: list[tuple[float, int]]) -> float:
    return sum(loss for loss, _ in losses) / sum(tokens for _, tokens in losses)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=SLOW)])
def test_an_evaluation_is_the_mean_over_tokens_of_conversations_alone(processes, alone, straight):
    run = straight("full", processes)
    (line,) = (line for line in run.stdout.splitlines() if line.startswith("eval: "))
    rows = int(line.split(" tokens in ")[1].split()[0])
    assert rows % (4 * processes)  # so that there are fillers
    evaluations = [record for record in records(run.out) if "eval_loss" in record]
    assert [record["step"] for record in evaluations] == [6, 12]
    last = evaluations[-1]  # of the weights that were then saved
    everything = [conversation for source in alone.values() for conversation in source]
    # The weights that other processes learned are the same only nearly so.
    tolerance = 1e-5 if processes == 1 else 1e-4
    assert last["eval_loss"] == pytest.approx(mean(everything), rel=tolerance)
    assert last["eval_tokens"] == sum(tokens for _, tokens in everything)
    assert {name.removeprefix("eval_loss/") for name in last if name.startswith("eval_loss/")} == set(alone)
    for source, losses in alone.items():
        assert last[f"eval_loss/{source}"] == pytest.approx(mean(losses), rel=tolerance), source
        assert last[f"eval_perplexity/{source}"] == pytest.approx(math.exp(last[f"eval_loss/{source}"]))
    assert last["eval_perplexity"] == pytest.approx(math.exp(last["eval_loss"]))
    weighted = sum(last[f"eval_loss/{s}"] * sum(tokens for _, tokens in losses) for s, losses in alone.items())
    assert last["eval_loss"] == pytest.approx(weighted / last["eval_tokens"], rel=1e-9)


# --- Eight processes --------------------------------------------------------------------------------------------------


@SLOW
@pytest.mark.timeout(600)
def test_the_13b_recipe_runs_on_eight_processes(mixture, base, tmp_path):
    """All that the recipe sets, on a tiny base: bfloat16, dropout, gradient checkpointing, evaluation, checkpoints."""
    out = tmp_path / "out"
    done = command(
        *("-m", "accelerate.commands.launch", "--config_file", "train/accelerate/cpu.yaml"),
        *("--num_processes", 8, "--main_process_port", 0),
        *("train/sft.py", "--config", "train/recipes/koala_13b.yaml", "--use_cpu", "true"),
        *("--model_name_or_path", base, "--mixture", mixture, "--output_dir", out),
        *("--max_steps", 2, "--logging_steps", 1, "--save_steps", 1, "--eval_steps", 2),
        timeout=540,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    assert [record["step"] for record in records(out) if "loss" in record] == [1, 2]
    assert len(logged(out, "eval_loss")) == 1
    assert json.loads((out / "koala.json").read_text())["hardware"]["processes"] == 8
    assert {file.name for file in (out / "checkpoint-2").glob("rng_state_*.pth")} == {
        f"rng_state_{rank}.pth" for rank in range(8)
    }
    model, loading = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(loading.values())
    assert model.dtype == torch.bfloat16
    assert {tensor.dtype for tensor in weights(out).values()} == {torch.bfloat16}
    # What is trained, and what a resumed run goes on from, is more exact than what is published.
    trained = load_file(out / "checkpoint-2" / "model.safetensors")
    assert {tensor.dtype for tensor in trained.values()} == {torch.float32}
    ids = AutoTokenizer.from_pretrained(out)("USER: Hello", return_tensors="pt").input_ids
    assert model(ids).logits.isfinite().all()


@SLOW
def test_more_rows_a_step_than_the_mixture_has(mixture, base, tmp_path):
    """A step of two processes that is mostly fillers, and a process that has nothing but fillers."""
    given = ("--mixture", mixture, "--model_name_or_path", base, "--max_length", 2048)
    steps = ("--max_steps", 2, "--logging_steps", 1, "--per_device_train_batch_size", 1)
    losses = []
    for processes, accumulation in ((1, 64), (2, 32)):
        out = tmp_path / str(processes)
        launch = ("-m", "accelerate.commands.launch", "--config_file", "train/accelerate/cpu.yaml")
        succeed(
            *(*launch, "--num_processes", processes, "--main_process_port", 0),
            *("train/sft.py", "--config", "train/recipes/demo.yaml", *given, *steps, "--output_dir", out),
            *("--gradient_accumulation_steps", accumulation),
            env=environment(),
        )
        assert min(logged(out, "padding_share")) > 0.5
        assert logged(out, "epoch")[:2] == [1, 2]
        losses.append(logged(out, "loss"))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
