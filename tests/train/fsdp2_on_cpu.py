"""Run `train/sft.py` under FSDP2 on the CPU, with the settings of `train/accelerate/fsdp2.yaml`.

    python -m torch.distributed.run --standalone --nproc_per_node 2 tests/train/fsdp2_on_cpu.py \
        [FLAGS OF accelerate launch] train/sft.py [FLAGS OF train/sft.py]

accelerate shards a model only where it finds GPUs; on a CPU the same YAML silently becomes DDP. What is replaced here
is that one answer of accelerate's ("gloo, and treat it as GPUs"); the plugin, the wrapping, the loading, the saving and
everything of the trainer's are the real ones. What became of the model is written to the file that the variable
FSDP2_REPORT names; at the step in FSDP2_DIE_AT_STEP all processes are killed, as a lost machine would kill them.
"""

import json
import os
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]


def main(arguments: list[str]) -> int:
    """Set what `accelerate launch` would set, answer for accelerate that there are devices, and train."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    yaml = ROOT / "train/accelerate/fsdp2.yaml"
    launch = launch_command_parser().parse_args(["--config_file", str(yaml), *arguments])
    wanted = prepare_multi_gpu_env(_validate_launch_command(launch)[0])
    os.environ.update({key: value for key, value in wanted.items() if key.startswith(("ACCELERATE_", "FSDP_"))})

    import accelerate
    import transformers

    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    devices = ("gloo", accelerate.utils.DistributedType.MULTI_GPU)
    accelerate.PartialState._prepare_backend = lambda self, *args, **kwargs: devices
    transformers.trainer.DEFAULT_CALLBACKS.append(_witness(transformers.TrainerCallback))

    import train.loss

    train.loss.token_losses = _noting_types(train.loss.token_losses)
    from train.sft import main as sft

    return sft(launch.training_script_args)


_logits: set[str] = set()
"""The types that logits had where their losses were taken."""


def _noting_types(token_losses):
    def noted(logits, targets):
        _logits.add(str(logits.dtype))
        return token_losses(logits, targets)

    return noted


def _witness(base: type) -> type:
    class Witness(base):
        """Writes down how the model is kept, as seen from one process in the first step."""

        def on_step_begin(self, args, state, control, model=None, optimizer=None, **kwargs):
            if state.global_step == int(os.environ.get("FSDP2_DIE_AT_STEP", -1)):
                os.kill(os.getpid(), 9)
            if "FSDP2_REPORT" in os.environ and state.is_world_process_zero:
                Path(os.environ["FSDP2_REPORT"]).write_text(json.dumps(_report(model, optimizer)), encoding="utf-8")

    return Witness


def _report(model, optimizer) -> dict:
    import accelerate
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

    state = accelerate.state.AcceleratorState()
    parameters = dict(model.named_parameters())
    policy = state.fsdp_plugin.mixed_precision_policy
    kinds = ("param", "reduce", "output")
    optimized = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {
        "distributed_type": str(state.distributed_type.value),
        "mixed_precision": state.mixed_precision,
        "policy": policy and {kind: str(getattr(policy, f"{kind}_dtype")) for kind in kinds},
        "logits": sorted(_logits),
        "mesh": list({tuple(p.device_mesh.shape) for p in parameters.values() if isinstance(p, DTensor)}),
        "plain": [name for name, p in parameters.items() if not isinstance(p, DTensor)],
        "placements": sorted({str(p.placements) for p in parameters.values() if isinstance(p, DTensor)}),
        "dtypes": Counter(str(p.dtype) for p in parameters.values()),
        "trainable_dtypes": Counter(str(p.dtype) for p in parameters.values() if p.requires_grad),
        "numbers": sum(p.numel() for p in parameters.values()),
        "numbers_here": sum(getattr(p, "_local_tensor", p).numel() for p in parameters.values()),
        "optimized_dtensors": sum(isinstance(p, DTensor) for p in optimized) == len(optimized),
        "units": Counter(type(m).__name__.removeprefix("FSDP") for m in model.modules() if isinstance(m, FSDPModule)),
    }


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main(sys.argv[1:]))
