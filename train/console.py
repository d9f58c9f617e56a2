"""What a run tells on the console while it trains: a live line in a terminal, plain lines elsewhere."""

import math
import shutil
import sys
import textwrap
import time

from tqdm import tqdm
from transformers import PrinterCallback, ProgressCallback, TrainerCallback, TrainerState

from .labels import label
from .records import SOURCE_LOSS

_TOGETHER = "\N{NO-BREAK SPACE}"
"""Between a source and its loss, so that no line ends there."""


def use_console(trainer, *, live: bool) -> TrainerCallback:
    """Let the trainer report with `LiveLine` (`live`: standard error is a terminal) or `PlainLines` instead of its own
    callbacks, and return which. Its `close()` must be called when training ends by an exception."""
    for theirs in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(theirs)
    ours = LiveLine() if live else PlainLines()
    trainer.add_callback(ours)
    return ours


class LiveLine(TrainerCallback):
    """A line on standard error that is kept up to date, and a permanent one on standard output for each evaluation."""

    def __init__(self):
        self._bar: tqdm | None = None
        self._told = ""
        self._evaluated = 0

    def on_train_begin(self, args, state: TrainerState, control, **kwargs) -> None:
        """Open the line. The estimate counts the steps from here on, which in a resumed run are not all."""
        if state.is_world_process_zero:
            self._bar = tqdm(
                total=state.max_steps,
                initial=state.global_step,
                file=sys.stderr,
                dynamic_ncols=True,
                miniters=1,
                smoothing=0,  # the mean, in which evaluations and checkpoints have their part
                bar_format="{percentage:3.0f}%|{bar:10}| step {n_fmt}/{total_fmt}, {remaining} left{postfix}",
            )

    def on_step_end(self, args, state: TrainerState, control, **kwargs) -> None:
        """Move on."""
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_log(self, args, state: TrainerState, control, logs: dict | None = None, **kwargs) -> None:
        """Show a training record in the line; print an evaluation above it."""
        if not state.is_world_process_zero or not logs:
            return
        if "loss" in logs:
            self._told = ", ".join(_training(logs))
            self._show(self._told)
        if "eval_loss" in logs:
            width = max(40, shutil.get_terminal_size().columns)
            lines = textwrap.wrap(_evaluation(state, logs), width, subsequent_indent="    ", break_on_hyphens=False)
            _say("\n".join(lines))

    def on_prediction_step(self, args, state: TrainerState, control, eval_dataloader=None, **kwargs) -> None:
        """Show how far an evaluation has come."""
        if self._bar is None:
            return
        self._evaluated += 1
        try:
            batches = len(eval_dataloader)
        except TypeError:  # it has no length
            self._show(f"evaluating: batch {self._evaluated}")
            return
        if self._evaluated % max(1, batches // 100) == 0:
            self._show(f"evaluating: batch {self._evaluated}/{batches}")

    def on_evaluate(self, args, state: TrainerState, control, **kwargs) -> None:
        """Show the training record again."""
        self._evaluated = 0
        self._show(self._told)

    def on_train_end(self, args, state: TrainerState, control, **kwargs) -> None:
        """Leave the line as it is."""
        self.close()

    def close(self) -> None:
        """Leave the line as it is, so that what is printed next begins on one of its own."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _show(self, text: str) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(text)


class PlainLines(TrainerCallback):
    """A line on standard output for each record."""

    def on_train_begin(self, args, state: TrainerState, control, **kwargs) -> None:
        """Start the clock of the estimate."""
        self._started, self._first_step = time.monotonic(), state.global_step

    def on_log(self, args, state: TrainerState, control, logs: dict | None = None, **kwargs) -> None:
        """Print a training record with the time that is left, or an evaluation."""
        if not state.is_world_process_zero or not logs:
            return
        if "loss" in logs:
            told = [f"step {state.global_step}/{state.max_steps}", *_training(logs)]
            if "learning_rate" in logs:
                told.append(f"learning rate {logs['learning_rate']:.2e}")
            if done := state.global_step - self._first_step:
                seconds = (time.monotonic() - self._started) / done * (state.max_steps - state.global_step)
                told.append(f"{duration(seconds)} left")
            _say("  ".join(told))
        if "eval_loss" in logs:
            _say(_evaluation(state, logs))

    def close(self) -> None:
        """Nothing is open."""


def duration(seconds: float) -> str:
    """A time for people: `95 s`, `42 min`, `3 h 05 min`, `2 d 4 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def _training(logs: dict) -> list[str]:
    told = [f"loss {logs['loss']:.4f}"]
    if "tokens_per_second" in logs:
        told.append(f"{logs['tokens_per_second']:,.0f} tokens/s")
    if "mfu" in logs:
        told.append(f"MFU {logs['mfu']:.1%}")
    if "padding_share" in logs:
        told.append(f"padding {logs['padding_share']:.1%}")
    return told


def _evaluation(state: TrainerState, logs: dict) -> str:
    """Loss and perplexity, then the sources, the one with the highest loss first."""
    told = f"step {state.global_step}/{state.max_steps}  evaluation: loss {logs['eval_loss']:.4f}"
    if "eval_perplexity" in logs:
        told += f", perplexity {_perplexity(logs['eval_perplexity'])}"
    sources = {key[len(SOURCE_LOSS) :]: loss for key, loss in logs.items() if key.startswith(SOURCE_LOSS)}
    ordered = sorted(sources.items(), key=lambda item: (-math.inf if math.isnan(item[1]) else -item[1], item[0]))
    told += "".join(f"{',' if i else ';'} {label(name)}{_TOGETHER}{loss:.3f}" for i, (name, loss) in enumerate(ordered))
    return told


def _perplexity(value: float) -> str:
    """With two decimals while these say something."""
    return f"{value:.2f}" if value < 1000 else f"{value:,.0f}" if value < 1e6 else f"{value:.1e}"


def _say(text: str) -> None:
    """Print above the live line, if there is one. What the terminal's encoding lacks becomes a question mark."""
    encoding = sys.stdout.encoding or "utf-8"
    tqdm.write(text.replace(_TOGETHER, " ").encode(encoding, "replace").decode(encoding), file=sys.stdout)
    sys.stdout.flush()
