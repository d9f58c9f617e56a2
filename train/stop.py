"""SIGTERM, as spot instances and batch systems send it: save after the step at hand, and end."""

import ctypes
import os
import signal
import sys
import threading

from transformers import TrainerCallback

EXIT_CODE = 128 + signal.SIGTERM
"""Of a process that SIGTERM ended, as shells report it."""

_PR_SET_PDEATHSIG = 1

_LAUNCHED = "ACCELERATE_MIXED_PRECISION"
"""A variable that `accelerate launch` always sets."""


def end_with_launcher() -> None:
    """Get a SIGTERM when the `accelerate launch` that started this process dies (on Linux).

    That of one process does not pass on the SIGTERM that it gets; it dies and would leave this one running. What a
    shell started may outlive the shell.
    """
    if sys.platform == "linux" and _LAUNCHED in os.environ:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class SaveOnSigterm(TrainerCallback):
    """Once any process has got SIGTERM, all save after the step at hand and training stops.

    Attributes:
        stopped: whether that has happened.
    """

    def __init__(self) -> None:
        self.stopped = False
        self._asked = False
        self._group = None

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Listen."""
        import torch.distributed as dist

        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._ask)
        if dist.is_available() and dist.is_initialized():
            # Asking each other over the CPU does not wait for what the GPUs still have to do.
            self._group = dist.new_group(backend="gloo")

    def _ask(self, *_) -> None:
        self._asked = True

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Save and stop if one process was asked to; the last step needs neither."""
        import torch

        asked = torch.tensor(int(self._asked))
        if self._group is not None:
            torch.distributed.all_reduce(asked, op=torch.distributed.ReduceOp.MAX, group=self._group)
        if asked.item() and state.global_step < state.max_steps:
            self.stopped = control.should_save = control.should_training_stop = True

    def on_train_end(self, args, state, control, **kwargs) -> None:
        """What is left is short: let it be done, and let a second SIGTERM end it."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
