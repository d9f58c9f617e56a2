"""Counts the bytes of the tensors that live, on any device, with or without memory behind them (FakeTensorMode)."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only


class TensorMemory(TorchDispatchMode):
    """While it is entered, every tensor that is made is counted until it is freed.

    Attributes:
        now: bytes that live.
        peak: the most there was; set it to `now` to begin again.
    """

    def __init__(self, *known: torch.Tensor):
        super().__init__()
        self.now = self.peak = 0
        self._live: set[int] = set()
        for tensor in known:
            self._see(tensor)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tree_map_only(torch.Tensor, self._see, result)
        return result

    def _see(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._live:
            self._live.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._free, key, size).atexit = False

    def _free(self, key: int, size: int) -> None:
        self._live.discard(key)
        self.now -= size
