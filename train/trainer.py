"""TRL's SFTTrainer on packed rows: the loss, what is measured of it, and checkpoints that are whole."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate.utils import is_peft_model
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import SFTTrainer

from train.counts import Counts
from train.launch import sharding
from train.loss import give_losses
from train.packing import ROW, collate
from train.precision import HALVES
from train.run import remove_older_checkpoints, seal


class PackedTrainer(SFTTrainer):
    """An SFTTrainer for `train.packing.packed_rows`.

    It adds to each record: tokens per second over all processes, the share of the rows that holds no token, the model
    FLOPs utilization (MFU) where the device's peak is known, and the loss by source; in evaluation the loss and the
    perplexity over all tokens and by source.
    """

    def __init__(
        self,
        *,
        model,
        args,
        sources: Sequence[str],
        flops: Callable[[int, int, int], float] | None = None,
        peak_flops: float | None = None,
        **options,
    ):
        """Args beside those of SFTTrainer:
        sources: the names that the numbers in the rows stand for.
        flops: model FLOPs of so many tokens, sum of squared lengths of conversations, and tokens with loss.
        peak_flops: of one device, per second; None where it is not known, and then there is no utilization.
        """
        give_losses(model)
        args.packing, args.dataset_kwargs = False, {"skip_prepare_dataset": True}  # TRL is to take the rows as they are
        args.loss_type = "nll"  # before 1.16, TRL's default replaces the forward pass that give_losses made
        if sharding().startswith("fsdp"):
            # Without it, gradients that wait for the other micro-batches of a step are whole on every GPU.
            given = args.accelerator_config.gradient_accumulation_kwargs or {}
            args.accelerator_config.gradient_accumulation_kwargs = {"sync_each_batch": True, **given}
        args.logging_nan_inf_filter = False  # it would hide that a run diverges, and waits for the device at each step
        if args.ddp_find_unused_parameters is None:
            args.ddp_find_unused_parameters = False  # every trained parameter has a gradient
        # What is whole is decided here, so what is older is removed here.
        self._checkpoints, args.save_total_limit = args.save_total_limit, None
        super().__init__(model=model, args=args, data_collator=collate, **options)
        if (plugin := self._fsdp_plugin()) is not None and plugin.mixed_precision_policy is not None:
            # accelerate's policy adds up the gradients in 16 bits, and rounds the losses to 16 on their way out.
            half = plugin.mixed_precision_policy.param_dtype
            plugin.mixed_precision_policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32)
        self.add_callback(_AsOftenAsTheRecipeSays())
        self.model_accepts_loss_kwargs = True  # compute_loss itself divides by the tokens of the whole step
        self._sources, self._capacity = sources, args.max_length
        self._flops, self._peak_flops = flops, peak_flops
        self._counts = {training: Counts(len(self._sources), self.args.device) for training in (True, False)}
        self._tokens_in_state = 0  # how many of those counted since the last record are in the trainer's state
        self._since: float | None = None
        self._finishing = False

    def _fsdp_plugin(self):
        return getattr(self.accelerator.state, "fsdp_plugin", None)

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = [ROW]

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The sum of the trained tokens' losses over their number, in this micro-batch or in the whole step."""
        if self._since is None:
            self._since = time.perf_counter()
        batch = {name: value for name, value in inputs.items() if name not in ("labels", "sources", "rows")}
        (losses,) = model(**batch, use_cache=False)
        self._counts[self.model.training].add(inputs, losses.detach())
        tokens = losses.numel() if num_items_in_batch is None else num_items_in_batch
        loss = losses.sum() / torch.as_tensor(tokens, device=losses.device).clamp(min=1)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # the gradients are averaged over the processes
        return (loss, {"losses": losses}) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add what was counted since the last record of this kind."""
        if "loss" in logs:
            logs.update(self._training_figures())
        elif "eval_loss" in logs:
            logs.update(self._evaluation_figures())
        super().log(logs, start_time)

    def _training_figures(self) -> dict[str, float]:
        counted = self._counts[True].read(self._sum)
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        self._tell_state(counted.tokens)
        self._tokens_in_state = 0
        self._counts[True].clear()
        figures = {
            "num_tokens": self.state.num_input_tokens_seen,
            "tokens_per_second": counted.tokens / seconds,
            "padding_share": 1 - counted.tokens / (counted.rows * self._capacity),
        }
        if self._flops and self._peak_flops:
            done = self._flops(counted.tokens, counted.squared, sum(counted.trained))
            figures["mfu"] = done / (seconds * self._peak_flops * self.accelerator.num_processes)
        for source, loss, tokens in zip(self._sources, counted.losses, counted.trained, strict=True):
            if tokens:
                figures[f"loss/{source}"] = loss / tokens
        return figures

    def _evaluation_figures(self) -> dict[str, float]:
        counted = self._counts[False].read(self._sum)
        self._counts[False].clear()
        figures: dict[str, float] = {"eval_tokens": sum(counted.trained)}
        names = ["", *(f"/{source}" for source in self._sources)]
        sums = [sum(counted.losses), *counted.losses]
        for name, loss, tokens in zip(names, sums, [figures["eval_tokens"], *counted.trained], strict=True):
            if tokens:
                figures[f"eval_loss{name}"] = loss / tokens
                figures[f"eval_perplexity{name}"] = math.exp(min(loss / tokens, 700))  # a larger one overflows
        return figures

    def _sum(self, sums: torch.Tensor) -> torch.Tensor:
        return self.accelerator.reduce(sums, reduction="sum")

    def _tell_state(self, tokens: int) -> None:
        """Have the state, which is saved, count the tokens that were seen since the last record."""
        self.state.num_input_tokens_seen += tokens - self._tokens_in_state
        self._tokens_in_state = tokens

    def evaluate(self, *args, **options):
        """As SFTTrainer does; the time it takes is no time of training."""
        with self._clock_stopped():
            return super().evaluate(*args, **options)

    def _save_checkpoint(self, model, trial) -> None:
        # transformers writes under the final name, and removes older checkpoints before every process is done. So it
        # removes none here, and what it wrote counts as a checkpoint only once it is sealed.
        with self._clock_stopped():
            self._tell_state(self._counts[True].read(self._sum).tokens)
            super(SFTTrainer, self)._save_checkpoint(model, trial)  # SFTTrainer's own would write its model card
            self.accelerator.wait_for_everyone()
            if self.is_world_process_zero():
                out = Path(self.args.output_dir)
                seal(out / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
                if self._checkpoints:
                    remove_older_checkpoints(out, self._checkpoints, spare=self.state.best_model_checkpoint)
            self.accelerator.wait_for_everyone()

    def _run_epoch(self, *args, **options) -> None:
        # A run that was killed after its last checkpoint has no step left; transformers would take one more.
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **options)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        trained = {name: weight.dtype for name, weight in self.model.named_parameters() if weight.requires_grad}
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        for name, weight in self.model.named_parameters():
            if name in trained:  # PEFT loads adapters in float32, also where they are trained in 16 bits
                weight.data = weight.data.to(trained[name])

    def save_finished(self, folder: Path) -> None:
        """Save the whole model, in the type in which it was computed, and the tokenizer.

        Adapters stay in the type in which they were trained. All processes must call it; the main one writes.
        """
        if (plugin := self._fsdp_plugin()) is not None:
            plugin.set_state_dict_type("FULL_STATE_DICT")  # with another, save_model saves nothing
        self._finishing = not is_peft_model(self.model)
        self.save_model(str(folder))
        self._finishing = False

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if not self._finishing or not self.args.should_save:
            super()._save(output_dir, state_dict)
            return
        model = self.accelerator.unwrap_model(self.model)
        weights = model.state_dict() if state_dict is None else state_dict
        half = HALVES.get(self.args.mixed_precision)
        dtype = getattr(torch, half) if half else model.dtype
        # Of tied weights one is saved.
        cast = {name: w.to("cpu", dtype) for name, w in weights.items() if name not in model.all_tied_weights_keys}
        super()._save(output_dir, cast)
        model.config.dtype = dtype  # transformers wrote the type in which the weights are trained
        model.config.save_pretrained(output_dir)

    @contextmanager
    def _clock_stopped(self) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            if self._since is not None:
                self._since += time.perf_counter() - begun


class _AsOftenAsTheRecipeSays(TrainerCallback):
    """A resumed run logs, evaluates and saves as often as is asked now; transformers does as the checkpoint says."""

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        state.compute_steps(args, state.max_steps)
