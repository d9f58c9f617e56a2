"""What a training run will take, before anything is loaded: tokens, steps, FLOPs, memory by part, hours and dollars.

    python -m train.plan --recipe train/recipes/koala_13b.yaml --mixture outputs/koala_all --hardware 8xA100-80GB

Tokens are counted if the mixture was tokenized for this base, else estimated from its manifest. Memory is arithmetic
(`train.memory`). Time is the model's FLOPs (`train.flops`) at a utilization of the hardware's peak that is assumed, or
at tokens per second that were measured. The exit code is 0 if the run fits, 1 if it does not, 2 for bad input.
"""

import argparse
import json
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from datasets_cfg.errors import BadInput, exit_code
from datasets_cfg.tokenization import load_manifest

from .amount import Amount, amount_of
from .decoder import Decoder, load_config
from .flops import ModelFlops
from .hardware import GIB, Hardware, parse
from .memory import Setup, memory, trained_parameters
from .recipe import number, read_mapping, read_recipe, setup_of, sharding_of
from .remedy import Remedy, remedy

MFU = 0.4
"""Model FLOPs utilization that is assumed where none is given. Published runs of 7B to 13B reach 0.3 to 0.55."""

MARGIN = 0.08
"""The share of a device's memory that tensors must leave to its context, collectives and the gaps between tensors."""


@dataclass(frozen=True)
class Plan:
    """What a run will take.

    Attributes:
        base, hardware: as they were named; `devices` and `sharding` as it will be launched.
        parameters, trained_parameters: of the base with its adapter.
        amount: of one epoch; `epochs` and `steps` of the run; `rows_per_step` over all devices.
        tokens: of the run.
        flops: of the run.
        moment, memory: when a device holds most, and bytes by part; `total` of all parts, `budget` that it may hold.
        seconds: of the steps alone; None where nothing says how fast the hardware is. `speed` says what was taken.
        dollars: None without a price.
        notes: what else the user should know.
        remedy: what to change where it does not fit.
    """

    base: str
    hardware: str
    devices: int
    sharding: str
    parameters: int
    trained_parameters: int
    amount: Amount
    epochs: float
    steps: int
    rows_per_step: int
    tokens: int
    flops: float
    moment: str
    memory: dict[str, int]
    total: int
    budget: int
    capacity: int
    seconds: float | None
    speed: str
    dollars: float | None
    notes: tuple[str, ...]
    remedy: Remedy | None

    @property
    def fits(self) -> bool:
        """Whether the tensors leave the margin."""
        return self.total <= self.budget


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, print the plan, return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m train.plan",
        description="What a training run will take, before anything is loaded: tokens, memory, hours, dollars.",
    )
    parser.add_argument("--recipe", type=Path, required=True, metavar="FILE", help="a recipe, as train/sft.py takes it")
    parser.add_argument(
        "--mixture", type=Path, metavar="DIR", help="a folder built by datasets_cfg (default: the recipe's)"
    )
    parser.add_argument(
        "--hardware", required=True, metavar="H", help="8xA100-80GB, 1xH100, 4xcustom:80GB:400TFLOPS, cpu"
    )
    parser.add_argument("--model_name_or_path", metavar="M", help="another base than the recipe's")
    parser.add_argument(
        "--accelerate", type=Path, metavar="FILE", help="the launch config (default: that of the recipe's first line)"
    )
    speed = parser.add_mutually_exclusive_group()
    speed.add_argument("--mfu", type=float, metavar="X", help=f"utilization of the peak FLOP/s (assumed: {MFU})")
    speed.add_argument("--tokens-per-second", type=float, metavar="N", help="measured, over all devices")
    parser.add_argument("--price", type=float, metavar="USD", help="of one device for one hour")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    found: list[Plan] = []
    code = exit_code(lambda: found.append(_run(options)), debug=options.debug)
    return code or (0 if found[0].fits else 1)


def _run(options: argparse.Namespace) -> Plan:
    recipe, launch_file = read_recipe(options.recipe)
    if options.model_name_or_path:
        recipe["model_name_or_path"] = options.model_name_or_path
    mixture = options.mixture or (Path(recipe["mixture"]) if recipe.get("mixture") else None)
    if mixture is None:
        raise BadInput(f"{options.recipe} names no mixture; give --mixture, a folder that datasets_cfg built")
    for name in ("mfu", "tokens_per_second", "price"):
        value = getattr(options, name)
        if value is not None and not (value > 0 and math.isfinite(value) and (name != "mfu" or value <= 1)):
            limits = "it is a share, more than 0 and at most 1" if name == "mfu" else "it must be more than 0"
            raise BadInput(f"--{name.replace('_', '-')} {value} is impossible; {limits}")
    launch_file = options.accelerate or launch_file
    made = plan(
        recipe,
        mixture,
        parse(options.hardware),
        launch=read_mapping(launch_file, "launch config") if launch_file else None,
        mfu=options.mfu,
        tokens_per_second=options.tokens_per_second,
        price=options.price,
    )
    if options.json:
        print(json.dumps({**asdict(made), "fits": made.fits}, indent=2))
    elif sys.stdout.isatty():
        _table(made)
    else:
        print("\n".join(lines(made)))
    return made


# --- The plan ---------------------------------------------------------------------------------------------------------


def plan(
    recipe: dict,
    mixture: Path,
    hardware: Hardware,
    *,
    launch: dict | None = None,
    mfu: float | None = None,
    tokens_per_second: float | None = None,
    price: float | None = None,
) -> Plan:
    """What the run of a recipe on a mixture will take.

    Args:
        recipe: keys and values as TRL's SFTConfig and ModelConfig call them; what it lacks is at their defaults.
        mixture: a folder that `datasets_cfg build` wrote.
        hardware: where it is to run; one process a device.
        launch: the content of the accelerate config; without it several devices each hold the whole model (DDP).
        mfu: the utilization to reckon with; `MFU` by default.
        tokens_per_second: measured, over all devices; then `mfu` does not count.
        price: dollars for one device and hour.

    Raises:
        BadInput: the mixture is none, the base's config cannot be had, or the recipe asks for what is not known here.
    """
    base = recipe.get("model_name_or_path")
    if not base:
        raise BadInput("the recipe names no base; set model_name_or_path")
    load_manifest(mixture)  # what is wrong with it is said before anything heavy is imported
    notes: list[str] = []
    setup = setup_of(recipe, hardware, sharding_of(launch, hardware.count))
    decoder = Decoder.of(load_config(base, recipe.get("model_revision"), say=notes.append))
    amount = amount_of(mixture, base, setup.length, decoder.vocab, seed=int(number(recipe, "seed", 42)))

    rows_per_step = setup.rows * setup.accumulation * hardware.count
    steps_per_epoch = max(1, math.ceil(amount.rows / rows_per_step))
    steps = int(number(recipe, "max_steps", -1))
    if steps > 0:
        epochs = steps / steps_per_epoch
    else:
        epochs = float(number(recipe, "num_train_epochs", 3.0))
        steps = math.ceil(epochs * steps_per_epoch)
    tokens = round(amount.tokens * epochs)
    flops = epochs * ModelFlops.of(decoder, trained=setup.adapter).of_tokens(
        amount.tokens, amount.squared, amount.trained
    )

    seconds, speed = _seconds(hardware, setup, tokens, flops, mfu, tokens_per_second)
    needed = memory(decoder, setup)
    budget = int(hardware.memory * (1 - MARGIN))
    if setup.mixed == "bfloat16" and hardware.bf16 is None and hardware.fp16:
        notes.append(f"the {hardware.device} has no bf16; set bf16: false and fp16: true, and dtype: float32")
    if setup.sharding == "fsdp2":
        whole = 4 * decoder.parameters / GIB
        notes.append(f"while it loads, each process of a server holds {whole:,.0f} GiB in the machine's own memory")
    notes.append("time is that of the steps alone: evaluation, checkpoints and loading come on top")
    return Plan(
        base=base,
        hardware=str(hardware),
        devices=hardware.count,
        sharding=setup.sharding,
        parameters=decoder.parameters,
        trained_parameters=trained_parameters(decoder, setup.adapter),
        amount=amount,
        epochs=epochs,
        steps=steps,
        rows_per_step=rows_per_step,
        tokens=tokens,
        flops=flops,
        moment=needed.moment,
        memory=needed.parts(),
        total=needed.total,
        budget=budget,
        capacity=hardware.memory,
        seconds=seconds,
        speed=speed,
        dollars=seconds / 3600 * hardware.count * price if seconds is not None and price is not None else None,
        notes=tuple(notes),
        remedy=None if needed.total <= budget else remedy(decoder, setup, budget),
    )


def _seconds(
    hardware: Hardware,
    setup: Setup,
    tokens: int,
    flops: float,
    mfu: float | None,
    tokens_per_second: float | None,
) -> tuple[float | None, str]:
    """How long the steps take, and what that was reckoned from, in words."""
    if tokens_per_second:
        return tokens / tokens_per_second, f"at {tokens_per_second:,.0f} tokens/s over all devices, as given"
    dtype = setup.mixed or setup.dtype
    peak = hardware.peak(dtype)
    if peak is None and hardware.device in ("cpu", "custom"):
        peak = hardware.bf16  # one figure was given, for whatever the run computes in
    if peak is None:
        return None, f"not known: no peak FLOP/s of {hardware.device} in {dtype}; give --tokens-per-second"
    share = MFU if mfu is None else mfu
    said = "an assumption" if mfu is None else "as given"
    speed = f"at {share:.0%} ({said}) of {peak / 1e12:,.3g} TFLOP/s on each device"
    return flops / (peak * hardware.count * share), speed


# --- Printing ---------------------------------------------------------------------------------------------------------


def lines(plan: Plan) -> list[str]:
    """The plan as plain lines."""
    return [f"{name:<14} {text}".rstrip() for name, text in described(plan)]


def described(plan: Plan) -> list[tuple[str, str]]:
    """The plan as names and sentences."""
    amount = plan.amount
    about = "" if amount.exact else "about "
    trained = f", {amount.trained / amount.tokens:.0%} of them trained" if amount.trained else ""
    launched = {"none": "one device", "ddp": "each device with the whole model (DDP)", "fsdp2": "split (FSDP2)"}
    rows = [
        (
            "base",
            f"{plan.base}: {plan.parameters:,} parameters, "
            + ("all trained" if plan.trained_parameters == plan.parameters else f"{plan.trained_parameters:,} trained"),
        ),
        ("hardware", f"{plan.hardware}, {launched.get(plan.sharding, 'split (ZeRO-3)')}"),
        (
            "epoch",
            f"{about}{amount.tokens:,} tokens{trained} in {amount.conversations:,} conversations, "
            f"{about}{amount.rows:,} rows ({amount.source})",
        ),
        (
            "run",
            f"{plan.steps:,} steps of {plan.rows_per_step} rows, {plan.epochs:.3g} epochs, "
            f"{about}{plan.tokens:,} tokens",
        ),
        ("FLOPs", f"{plan.flops:.3g} ({plan.flops / max(1, plan.tokens) / 1e9:.3g} GFLOP a token)"),
        *((name, f"{_gib(size):>10} per device") for name, size in plan.memory.items()),
        (
            "memory",
            f"{_gib(plan.total):>10} per device of {_gib(plan.capacity)}, {MARGIN:.0%} of which must stay free; "
            f"the parts are those of the worst moment, {plan.moment}",
        ),
    ]
    if plan.seconds is None:
        rows.append(("time", plan.speed))
    else:
        rows.append(("time", f"{_duration(plan.seconds)} {plan.speed}"))
    if plan.dollars is not None:
        rows.append(("price", f"${plan.dollars:,.2f}"))
    rows += [("note", note) for note in plan.notes]
    rows.append(("verdict", "it fits" if plan.fits else "it does not fit"))
    if plan.remedy:
        then = f"then it takes {_gib(plan.remedy.bytes)} per device"
        if plan.remedy.fits:
            rows += [("change", change) for change in plan.remedy.changes]
            rows.append(("", f"{then} and fits"))
        else:
            rows.append(
                (
                    "change",
                    f"no setting is enough ({then} with all of them); take more or larger GPUs, or a smaller base",
                )
            )
    return rows


def _table(plan: Plan) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, text in described(plan):
        style = ("green" if plan.fits else "red") if name == "verdict" else ""
        table.add_row(Text(name), Text(text, style=style))
    Console().print(table)


def _gib(size: int) -> str:
    return f"{size / GIB:,.2f} GiB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


if __name__ == "__main__":
    sys.exit(main())
