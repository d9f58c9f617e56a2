"""A rehearsal: the plan of a recipe where it is launched, and two steps of it on a model of the same kind, shrunk."""

import copy
from pathlib import Path

from train.launch import launch_config


def plan_here(koala, args, model_args, processes: int) -> str:
    """The plan for the devices of these processes, as text.

    Raises:
        BadInput: the model is of no kind that can be planned.
    """
    from train.hardware import here
    from train.plan import lines, plan

    recipe = {**vars(koala), **vars(args), **vars(model_args)}
    return "\n".join(lines(plan(recipe, Path(koala.mixture), here(processes), launch=launch_config())))


def rehearse(koala, args) -> None:
    """Have the run take two steps into a folder of its own beside output_dir."""
    args.output_dir = str(Path(args.output_dir).with_name(f".{Path(args.output_dir).name}.dry-run"))
    args.max_steps, args.logging_steps = 2, 1
    args.save_strategy, args.eval_strategy, args.report_to = "no", "no", []
    koala.overwrite = True


def shrunk(config):
    """A config of the same kind with two narrow layers; the vocabulary and the number of heads are kept."""
    small = copy.deepcopy(config)
    text = small.get_text_config()
    text.num_hidden_layers, text.intermediate_size = 2, 64
    text.hidden_size = 16 * text.num_attention_heads
    if getattr(text, "head_dim", None):
        text.head_dim = 16
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:2]
    return small
