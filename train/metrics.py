"""What a run logs: one JSON object a line in `metrics.jsonl`, and the summary of it all."""

import json
from pathlib import Path
from statistics import median

from transformers import TrainerCallback, TrainerState

from train.curve import CURVE, draw
from train.records import read_records


class MetricsFile(TrainerCallback):
    """Append each record that the trainer logs (step, loss, learning rate, …) to a JSON Lines file."""

    def __init__(self, file: Path):
        self.file = file

    def on_train_begin(self, args, state: TrainerState, control, **kwargs) -> None:
        """Keep the records before the step at which the run resumes, none of a run that was started over."""
        if not state.is_world_process_zero:
            return
        kept = []
        if state.global_step and self.file.is_file():
            before = (record for record in read_records(self.file) if record["step"] <= state.global_step)
            kept = [record for record in before if "train_runtime" not in record]  # the last word of a stopped run
        self.file.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")

    def on_save(self, args, state: TrainerState, control, **kwargs) -> None:
        """Draw the loss curve so far."""
        if state.is_world_process_zero:
            draw(self.file, self.file.with_name(CURVE))

    def on_log(self, args, state: TrainerState, control, logs: dict | None = None, **kwargs) -> None:
        """Write one record."""
        if state.is_world_process_zero and logs:
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")


def summary(state: TrainerState, seconds: float) -> dict:
    """Steps, first and last loss, tokens and speed of a run, from the trainer's own log.

    The seconds are those of this process; a resumed run counts them from its checkpoint. The speeds are medians over
    all records.
    """
    records = [record for record in state.log_history if "loss" in record]
    figures = {
        "steps": state.global_step,
        "epochs": round(state.epoch or 0, 3),
        "loss_first": records[0]["loss"] if records else None,
        "loss_last": records[-1]["loss"] if records else None,
        "tokens": state.num_input_tokens_seen,
        "seconds": round(seconds, 1),
    }
    for name, digits in (("tokens_per_second", 1), ("mfu", 4), ("padding_share", 4)):
        values = [record[name] for record in records if name in record]
        if values:
            figures[name] = round(median(values), digits)
    return figures
