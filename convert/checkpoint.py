"""A Hugging Face checkpoint on disk: what it says about itself, and its tensors one by one."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets_cfg.errors import BadInput

if TYPE_CHECKING:
    import torch

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_PICKLES = ("pytorch_model*.bin", "*.pth", "*.pt", "consolidated*.bin")
_FLOATS = ("F32", "BF16", "F16")
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies and what it is: safetensors' name of its dtype (`BF16`) and its shape."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: `config` is the content of config.json, `tensors` the headers of all weight files."""

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]

    @contextmanager
    def reader(self) -> Iterator[Callable[[str], "torch.Tensor"]]:
        """Yield a function from a tensor's name to the tensor, checked to be finite.

        Raises:
            BadInput: by the function, for a tensor that holds NaN or infinity.
        """
        from safetensors import safe_open

        def read(name: str) -> "torch.Tensor":
            file = self.tensors[name].file
            # Opened for each tensor, since what a mapped file has read stays in memory for as long as it is open.
            with safe_open(file, framework="pt") as handle:
                tensor = handle.get_tensor(name)
            if not tensor.numel():
                return tensor
            # The extremes of a tensor with a NaN are NaN, and finding them takes no memory.
            low, high = tensor.aminmax()
            if not (low.isfinite() and high.isfinite()):
                raise BadInput(
                    f"{file}: the tensor {name} holds NaN or infinity, so the training went wrong; "
                    "convert an earlier checkpoint"
                )
            return tensor

        yield read


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read the configuration and the headers of the weight files; no weights are read.

    Raises:
        BadInput: the folder is not a checkpoint that can be converted; the message says why and what to do.
    """
    if not folder.is_dir():
        hint = "a checkpoint is a folder" if folder.exists() else "no such folder; download the checkpoint first"
        raise BadInput(f"{folder}: {hint} (config.json, *.safetensors, tokenizer.json)")
    if (folder / "adapter_config.json").is_file():
        raise BadInput(f"{folder} is a PEFT adapter, not a model; name a whole model")
    config = read_json(folder / "config.json")
    if config.get("quantization_config"):
        raise BadInput(
            f"{folder}/config.json: the weights are already quantized; convert the unquantized checkpoint (for an "
            "adapter that was trained on a quantized base, name the unquantized one with --base)"
        )
    return Checkpoint(folder, config, _all_tensors(folder))


def own_dtype(checkpoint: Checkpoint) -> str:
    """The type of the intermediate GGUF that loses nothing: the matrices' own (`F32`, `BF16`, `F16`), F32 if mixed."""
    dtypes = {tensor.dtype for tensor in checkpoint.tensors.values() if len(tensor.shape) > 1}
    return dtypes.pop() if len(dtypes) == 1 else "F32"


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        BadInput: there is no such file, or it does not hold a JSON object, or half of a character (a lone surrogate).
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
        # Two halves make a character, and are a common way to write it; only one alone cannot be encoded.
        if _ESCAPED_SURROGATE.search(text):
            json.dumps(content, ensure_ascii=False).encode()
    except FileNotFoundError:
        raise BadInput(f"{path.parent} has no {path.name}; name the folder of a Hugging Face checkpoint") from None
    except UnicodeEncodeError:
        raise BadInput(f"{path} holds half of a character (a lone surrogate); copy the checkpoint again") from None
    except RecursionError:
        raise BadInput(f"{path} is nested too deeply; copy the checkpoint again") from None
    except ValueError as error:
        raise BadInput(f"{path} is not JSON ({error}); copy the checkpoint again") from None
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); copy the checkpoint again") from None
    if not isinstance(content, dict):
        raise BadInput(f"{path} does not hold a JSON object; copy the checkpoint again")
    return content


def _all_tensors(folder: Path) -> dict[str, StoredTensor]:
    if (folder / _INDEX).is_file():
        return _sharded(folder)
    if (folder / _SINGLE).is_file():
        return stored_tensors(folder / _SINGLE)
    if any(path for pattern in _PICKLES for path in folder.glob(pattern)):
        raise BadInput(
            f"{folder} has only pickled weights, which can run code when they are opened; load the model where you "
            "trust it and save it again with save_pretrained, which writes safetensors"
        )
    raise BadInput(f"{folder} has no weights: neither {_SINGLE} nor {_INDEX}; copy the checkpoint again")


def _sharded(folder: Path) -> dict[str, StoredTensor]:
    weight_map = read_json(folder / _INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BadInput(f"{folder / _INDEX} has no weight_map; copy the checkpoint again")
    if odd := [name for name, file in weight_map.items() if not isinstance(file, str)]:
        raise BadInput(f"{folder / _INDEX} does not name the file of the tensor {odd[0]}; copy the checkpoint again")
    files = sorted(set(weight_map.values()))
    # A name with a folder in it would read outside of the checkpoint.
    if foreign := [name for name in files if Path(name).name != name]:
        raise BadInput(f"{folder / _INDEX} names {foreign[0]}, which is not a file of this folder")
    if missing := [name for name in files if not (folder / name).is_file()]:
        raise BadInput(f"{folder / _INDEX} names {missing[0]}, which is missing; copy it into the checkpoint")
    stored = {name: tensor for file in files for name, tensor in stored_tensors(folder / file).items()}
    for name, file in weight_map.items():
        if name not in stored or stored[name].file.name != file:
            raise BadInput(f"{folder / file} lacks the tensor {name} that {_INDEX} promises; copy the checkpoint again")
    return {name: stored[name] for name in weight_map}


def stored_tensors(file: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file by their names, from its header.

    Raises:
        BadInput: the file is damaged, or holds tensors that are no floating-point numbers of 16 or 32 bits.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as handle:
            slices = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118 (not a dict)
            stored = {
                name: StoredTensor(file, part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()
            }
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{file} is damaged or cut short ({error}); copy it again") from None
    for name, tensor in stored.items():
        if tensor.dtype not in _FLOATS:
            raise BadInput(
                f"{file}: the tensor {name} is {tensor.dtype}; only {', '.join(_FLOATS)} can be converted, "
                "so save the checkpoint in one of these"
            )
    return stored
