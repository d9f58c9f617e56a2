"""The unquantized file that everything else is made from, and the proof of its tokenizer before it is written."""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

from datasets_cfg.errors import BadInput

from .architecture import TensorPlan
from .compare import Question, prove_tokenizer
from .model import Model
from .progress import Step
from .report import size_text
from .write import write_gguf, write_vocabulary


def prove_vocabulary(model: Model, question: Question, work: Path, *, threads: int) -> None:
    """Try the tokenizer on a file without weights, which takes seconds whatever the model's size.

    Raises:
        VerificationFailed: llama.cpp would read other tokens than transformers.
    """
    path = work / "vocabulary.gguf"
    write_vocabulary(
        path, model.config, model.fields, model.provenance, name=model.name, chat_template=model.chat_template
    )
    prove_tokenizer(path, question, threads=threads)
    path.unlink()


def write_intermediate(model: Model, work: Path, *, verified: bool, step: Step) -> tuple[Path, str]:
    """Write the model in its own type; return the file and the digest of the checkpoint's weights.

    Raises:
        BadInput: the disk has no room for it, or a tensor holds NaN or infinity.
    """
    path = work / f"{model.file_type}.gguf"
    size = tensor_bytes(model.plans, model.file_type)
    if size > (free := shutil.disk_usage(work).free):
        raise BadInput(
            f"the unquantized file takes {size_text(size)}, but the disk of {work.parent} has {size_text(free)} free; "
            "free some space or choose another"
        )
    with step(f"write {model.file_type}", size) as advance:
        sha256 = write_gguf(
            path,
            model.file_type,
            model.source.checkpoint,
            model.plans,
            model.config,
            model.fields,
            model.provenance,
            name=model.name,
            chat_template=model.chat_template,
            verified=verified,
            advance=advance,
        )
    return path, sha256


def tensor_bytes(plans: Sequence[TensorPlan], file_type: str) -> int:
    """Bytes of all tensors in a file of this unquantized type; those of one dimension are always in F32."""
    width = 4 if file_type == "F32" else 2
    return sum(math.prod(plan.shape) * (width if len(plan.shape) > 1 else 4) for plan in plans)
