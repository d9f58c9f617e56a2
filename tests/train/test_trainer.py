"""What the trainer counts and measures, with a clock that the test sets."""

import json
import math
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback, set_seed
from trl import SFTConfig

from train import attention, trainer
from train.flops import ModelFlops
from train.metrics import MetricsFile
from train.packing import pack, packed_rows
from train.trainer import PackedTrainer

SOURCES = ("one", "two")
CAPACITY = 10
LENGTHS = (10, 7, 3, 6, 2, 9, 5, 4)  # 46 tokens in five rows


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets, in the place of that of the trainer."""
    now = [100.0]
    monkeypatch.setattr(trainer, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    return now


class Ticking(TrainerCallback):
    """Each step takes two seconds, each batch of an evaluation a hundred."""

    def __init__(self, clock: list[float]):
        self.clock = clock

    def on_step_end(self, args, state, control, **kwargs):
        self.clock[0] += 2

    def on_prediction_step(self, args, state, control, **kwargs):
        self.clock[0] += 100


def split():
    """Rows of eight conversations; the first half of each carries no loss."""
    generator = np.random.default_rng(0)
    ids = [generator.integers(3, 50, length) for length in LENGTHS]
    conversations = Dataset.from_dict(
        {
            "input_ids": ids,
            "labels": [np.where(np.arange(len(row)) < len(row) // 2, -100, row) for row in ids],
            "source": [SOURCES[number % 2] for number in range(len(ids))],
        }
    )
    packing = pack(LENGTHS, CAPACITY, seed=0)
    assert len(packing) == 5
    return packed_rows(conversations, packing, SOURCES, multiple=2)


def trainer_of(out: Path, clock: list[float], **options) -> PackedTrainer:
    """A trainer of a model of two layers, three steps of two rows an epoch."""
    own = {name: options.pop(name) for name in ("flops", "peak_flops") if name in options}
    set_seed(1)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    attention.register()
    model = LlamaForCausalLM._from_config(LlamaConfig(vocab_size=50, **shape), attn_implementation="varlen")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "<pad>": 2}, unk_token="<s>")),
        **{"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"},
    )
    settings = {"max_steps": 6, "logging_steps": 2, "save_strategy": "no", "eval_strategy": "no", **options}
    args = SFTConfig(
        output_dir=str(out),
        max_length=CAPACITY,
        per_device_train_batch_size=2,
        per_device_eval_batch_size=2,
        **{"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": [], "disable_tqdm": True},
        **settings,
    )
    out.mkdir(exist_ok=True)
    return PackedTrainer(
        model=model,
        args=args,
        sources=SOURCES,
        train_dataset=split(),
        eval_dataset=split(),
        processing_class=tokenizer,
        callbacks=[Ticking(clock), MetricsFile(out / "metrics.jsonl")],
        **own,
    )


def records(trained: PackedTrainer, key: str = "loss") -> list[dict]:
    return [record for record in trained.state.log_history if key in record]


def test_tokens_rows_and_time(clock, tmp_path):
    trained = trainer_of(tmp_path / "out", clock)
    trained.train()
    found = records(trained)
    assert [record["step"] for record in found] == [2, 4, 6]
    assert found[-1]["num_tokens"] == 2 * (sum(LENGTHS) + 1)  # two epochs, each with a filler of one token
    counted = [later - before for before, later in pairwise([0, *(record["num_tokens"] for record in found)])]
    for record, tokens in zip(found, counted, strict=True):
        assert record["tokens_per_second"] == tokens / 4
        assert record["padding_share"] == pytest.approx(1 - tokens / (4 * CAPACITY))
        assert "mfu" not in record
        assert {"loss/one", "loss/two"} & record.keys()


def test_utilization_is_the_flops_that_the_tokens_need_over_what_the_device_could_do(clock, tmp_path):
    asked = []

    def flops(tokens: int, squared: int, trained: int) -> float:
        asked.append((tokens, squared, trained))
        return 1000.0 * tokens

    trained = trainer_of(tmp_path / "out", clock, flops=flops, peak_flops=5e4, max_steps=3, logging_steps=3)
    trained.train()
    (record,) = records(trained)
    tokens = sum(LENGTHS) + 1
    # A conversation's first token is never predicted, so it has no loss even where it has a label.
    trained_tokens = sum(length - length // 2 for length in LENGTHS)
    assert asked == [(tokens, sum(length**2 for length in LENGTHS) + 1, trained_tokens)]
    assert record["mfu"] == pytest.approx(1000 * tokens / (6 * 5e4))


@pytest.mark.parametrize("missing", ["flops", "peak_flops"])
def test_no_utilization_is_told_where_the_peak_is_not_known(missing, clock, tmp_path):
    known = {"flops": ModelFlops(1, 1, 1).of_tokens, "peak_flops": 1e12}
    trained = trainer_of(tmp_path / "out", clock, max_steps=2, **{**known, missing: None})
    trained.train()
    assert "mfu" not in records(trained)[0]


def test_evaluating_and_saving_are_no_time_of_training(clock, tmp_path, monkeypatch):
    seal = trainer.seal

    def slow_seal(checkpoint: Path) -> None:
        clock[0] += 1000
        seal(checkpoint)

    monkeypatch.setattr(trainer, "seal", slow_seal)
    busy = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 3}
    one, other = trainer_of(tmp_path / "one", clock, **busy), trainer_of(tmp_path / "other", clock)
    begun = clock[0]
    one.train()
    assert clock[0] - begun == 6 * 2 + 6 * 3 * 100 + 2 * 1000
    other.train()
    speeds = [[record["tokens_per_second"] for record in records(trained)] for trained in (one, other)]
    assert speeds[0] == pytest.approx(speeds[1])


def test_an_evaluation_before_training_is_not_counted(clock, tmp_path):
    trained = trainer_of(tmp_path / "out", clock)
    trained.evaluate()
    trained.train()
    assert records(trained)[0]["tokens_per_second"] == records(trained)[0]["num_tokens"] / 4


def test_evaluations_hold_the_losses_of_all_tokens_and_no_others(clock, tmp_path):
    trained = trainer_of(tmp_path / "out", clock)
    first, second = trained.evaluate(), trained.evaluate()
    assert first["eval_tokens"] == second["eval_tokens"] == sum(length - length // 2 for length in LENGTHS)
    assert first["eval_loss"] == second["eval_loss"]
    for name in ("", "/one", "/two"):
        assert first[f"eval_perplexity{name}"] == pytest.approx(math.exp(first[f"eval_loss{name}"]))
    parts = [
        sum(length - length // 2 for length in LENGTHS[number::2]) * first[f"eval_loss/{source}"]
        for number, source in enumerate(SOURCES)
    ]
    assert first["eval_loss"] == pytest.approx(sum(parts) / first["eval_tokens"])


@pytest.mark.parametrize("at", [3, 4])
def test_what_was_counted_survives_a_resume(at, clock, tmp_path):
    """At step 3 a record is half full; at step 4 it has just been written."""
    saving = {"save_strategy": "steps", "save_steps": at}
    straight = trainer_of(tmp_path / "straight", clock, **saving)
    straight.train()
    saved = tmp_path / "straight" / f"checkpoint-{at}"
    state = json.loads((saved / "trainer_state.json").read_text())
    resumed = trainer_of(tmp_path / "resumed", clock, **saving)
    resumed.train(resume_from_checkpoint=str(saved))
    totals = [record["num_tokens"] for record in records(straight)]
    assert [record["num_tokens"] for record in records(resumed)] == totals
    assert totals[at // 2 - 1] <= state["num_input_tokens_seen"] < totals[at // 2]
    assert resumed.state.num_input_tokens_seen == straight.state.num_input_tokens_seen
    for name, weight in straight.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name


def test_a_resumed_run_may_log_evaluate_and_save_at_other_steps(clock, tmp_path):
    straight = trainer_of(tmp_path / "straight", clock, save_strategy="steps", save_steps=2)
    straight.train()
    other = {"logging_steps": 1, "save_strategy": "steps", "save_steps": 3, "eval_strategy": "steps", "eval_steps": 6}
    resumed = trainer_of(tmp_path / "resumed", clock, **other)
    resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-2"))
    assert [record["step"] for record in records(resumed)] == [2, 3, 4, 5, 6]
    assert [record["step"] for record in records(resumed, "eval_loss")] == [6]
    assert {folder.name for folder in (tmp_path / "resumed").glob("checkpoint-*")} == {"checkpoint-3", "checkpoint-6"}
    for name, weight in straight.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name
