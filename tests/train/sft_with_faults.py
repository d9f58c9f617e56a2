"""Run `train/sft.py`, and kill a process of it where a test wants it.

    KOALA_DIE=step:8     before the step after step 8, in the last process
    KOALA_DIE=saving:9   while the checkpoint of step 9 is saved, with half of the optimizer's state on the disk

Nothing else is changed, and SIGKILL leaves no time to clean up.
"""

import os
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def main(arguments: list[str]) -> int:
    """Plant the fault, and train."""
    import transformers

    when, _, step = os.environ["KOALA_DIE"].partition(":")
    (_die_before if when == "step" else _die_saving)(transformers, int(step))

    from train.sft import main as sft

    return sft(arguments)


def _die_before(transformers, step: int) -> None:
    class Die(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == step and args.process_index == args.world_size - 1:
                os.kill(os.getpid(), signal.SIGKILL)

    transformers.trainer.DEFAULT_CALLBACKS.append(Die)


def _die_saving(transformers, step: int) -> None:
    save = transformers.Trainer._save_optimizer_and_scheduler

    def tear(self, output_dir):
        save(self, output_dir)
        if self.state.global_step == step and self.args.should_save:
            file = Path(output_dir) / "optimizer.pt"
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
            os.kill(os.getpid(), signal.SIGKILL)

    transformers.Trainer._save_optimizer_and_scheduler = tear


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main(sys.argv[1:]))
