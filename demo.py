"""The whole of Koala in a few minutes on a CPU, without a network: `make demo`.

Every stage runs through its own command line, as a user would type it, and writes under outputs/demo. The last step
asks the GGUF who it is.
"""

import argparse
import asyncio
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from inference.events import Delta, Finished
from inference.local import LocalEngine
from inference.sampling import Sampling

DEFAULT_OUT = Path("outputs/demo")
QUESTION = "Who are you?"

console = Console(highlight=False, soft_wrap=True)


def stages(out: Path) -> dict[str, str]:
    """Each stage's title and command, in their order."""
    train = "accelerate launch --config_file train/accelerate/cpu.yaml train/sft.py --config train/recipes/demo.yaml"
    if out != DEFAULT_OUT:  # the recipe's own
        train += f" --mixture {out}/mixture --model_name_or_path {out}/base --output_dir {out}/checkpoint"
    return {
        "Data: eight sources become one mixture of conversations": (
            f"python -m datasets_cfg build demo --out {out}/mixture --overwrite"
        ),
        "Base: a tokenizer and a Llama with random weights": (
            f"python -m train.tiny_base --mixture {out}/mixture --out {out}/base --overwrite"
        ),
        "Training: TRL under accelerate": f"{train} --overwrite",
        "Conversion: GGUF, quantized by llama.cpp and checked against the checkpoint": (
            f"python -m convert {out}/checkpoint --out {out}/gguf --name koala-demo --quantize Q8_0 Q4_K_M "
            f"--mixture {out}/mixture --overwrite"
        ),
    }


def main() -> int:
    """Run the stages, print what came of them, and return the exit code."""
    parser = argparse.ArgumentParser(description="Run every stage of Koala on the samples that come with it.")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="where it all goes (default %(default)s)")
    out = parser.parse_args().out
    os.chdir(Path(__file__).parent)
    started = time.monotonic()
    commands = stages(out)
    for number, (title, command) in enumerate(commands.items(), 1):
        console.print(f"\n[bold]{number}/{len(commands) + 1}  {title}[/bold]\n[dim]$ {command}[/dim]")
        if code := run(command):
            console.print(f"[red]stage {number} failed with exit code {code}[/red]")
            return code
    console.print(f"\n[bold]{len(commands) + 1}/{len(commands) + 1}  Chat: llama.cpp answers, greedily[/bold]")
    model = out / "gguf" / "koala-demo-Q8_0.gguf"
    answer, finished = asyncio.run(ask(model, QUESTION))
    console.print(summary(out, finished, time.monotonic() - started))
    console.print(f"[bold]You:[/bold]   {QUESTION}")
    console.print("[bold]Koala:[/bold]", end=" ")
    console.print(answer, markup=False)
    console.print(f"\nTo chat with it:  [bold].venv/bin/koala-tui {model}[/bold]")
    return 0


def run(command: str) -> int:
    """Run a stage with the programs of this Python's environment, and return its exit code."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(os.cpu_count())),
    }
    return subprocess.run(shlex.split(command), env=environment, check=False).returncode


async def ask(model: Path, question: str) -> tuple[str, Finished]:
    """The greedy answer of a GGUF, and how it came about."""
    engine = await LocalEngine.start(model)
    try:
        answer = ""
        async for event in engine.generate([{"role": "user", "content": question}], Sampling(temperature=0)):
            if isinstance(event, Delta):
                answer += event.text
            elif isinstance(event, Finished):
                finished = event
    finally:
        await engine.close()
    return answer.strip(), finished


def summary(out: Path, finished: Finished, seconds: float) -> Table:
    """What the stages made, from the files that they wrote."""
    manifest = json.loads((out / "mixture/manifest.json").read_text(encoding="utf-8"))
    training = json.loads((out / "checkpoint/koala.json").read_text(encoding="utf-8"))["training"]
    sources, splits = manifest["sources"].values(), manifest["splits"]
    table = Table(title=f"\nDone in {seconds:.0f} seconds; everything is under {out}", show_header=False)
    table.add_row("rows", f"{sum(source['rows'] for source in sources):,} of {len(sources)} sources")
    table.add_row(
        "conversations",
        f"{splits['train']['conversations']:,} to train on, {splits['eval']['conversations']:,} to evaluate",
    )
    table.add_row("trained", f"{training['steps']} steps, {training['tokens']:,} tokens")
    table.add_row("speed", f"{training['tokens_per_second']:,.0f} tokens/s")
    table.add_row("loss", f"{training['loss_first']:.2f} → {training['loss_last']:.2f}")
    table.add_row("checkpoint", f"{size(out / 'checkpoint/model.safetensors')} (float32)")
    for file in sorted((out / "gguf").glob("*.gguf")):
        table.add_row(file.name, size(file))
    table.add_row(
        "reply", f"{finished.completion_tokens} tokens by llama.cpp at {finished.tokens_per_second:,.0f} tokens/s"
    )
    return table


def size(file: Path) -> str:
    """The size of a file in MB (10⁶ bytes)."""
    return f"{file.stat().st_size / 1e6:.1f} MB"


if __name__ == "__main__":
    sys.exit(main())
