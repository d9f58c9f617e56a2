"""All comparisons of a conversion: the unquantized file with transformers, the others with the unquantized one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .architecture import context_length, has_tabulated_activation
from .compare import CONTINUATION, Answer, Question, against_transformers, ask, check, following
from .divergence import Divergence, measure
from .file_types import TABULATED, Limits, limits
from .model import Model
from .passages import LENGTH, Passage, held_out
from .progress import Step
from .reference import make_prompts
from .report import Proof
from .verdict import Speed

PROMPT_LIMIT = 96
"""Tokens of a prompt that are used at most, so that large models take minutes and not hours."""

PREDICTIONS = 2048
"""Predictions of held-out answers' tokens that files are compared on at most."""

_LEAST_PREDICTIONS = 256
_LOGIT_BYTES = 1_500_000_000
"""Of one file of logits at most; with a large vocabulary fewer predictions are compared."""


@dataclass(frozen=True)
class Finding:
    """How a file did: `divergence` from the unquantized one and its `limits` are None for that one itself."""

    divergence: Divergence | None
    limits: Limits | None
    speed: Speed


@dataclass(frozen=True)
class Findings:
    """What came out: of the unquantized file against transformers, and of each type that was asked for."""

    proof: Proof
    files: Mapping[str, Finding]


def verify(
    model: Model,
    question: Question,
    rows: Sequence[Mapping[str, Any]],
    made: Mapping[str, Path],
    *,
    threads: int,
    step: Step,
) -> Findings:
    """Compare all files; what they are compared on are the built-in prompts and the held-out conversations.

    Args:
        model: what was converted.
        question: what each file's tokenizer is held to.
        rows: held-out conversations; may be empty.
        made: type → file, the unquantized one of the model's own type among them.
        threads: CPU threads.
        step: opens a step of the progress.

    Raises:
        VerificationFailed: a file is not the same model.
    """
    own = model.file_type
    proof, passages, answer = compare_with_transformers(
        model,
        model.source.checkpoint,
        question,
        rows,
        made[own],
        label=own,
        allowed=unquantized_limits(model.config, own),
        threads=threads,
        step=step,
    )
    files = {own: Finding(None, None, answer.speed)}
    for file_type, path in made.items():
        if file_type != own:
            with step(f"verify {file_type}", len(passages)) as advance:
                candidate = ask(path, file_type, question, passages=passages, threads=threads, advance=advance)
            found = measure([(answer.logits, candidate.logits, following(passages))])
            path.with_suffix(".logits").unlink()
            # The unquantized file itself rounds as much as its type does.
            allowed = Limits(kld=max(limits(own).kld, limits(file_type).kld))
            check(file_type, found, allowed, reference=f"the {own} file's")
            files[file_type] = Finding(found, allowed, candidate.speed)
    return Findings(proof, files)


def unquantized_limits(config: Any, *file_types: str) -> Limits:
    """How far something may be from transformers that rounds as these unquantized types do: as the coarsest of them."""
    allowed = [limits(file_type) for file_type in file_types]
    if has_tabulated_activation(config):
        allowed.append(TABULATED)
    return max(allowed, key=lambda one: one.kld)


def compare_with_transformers(
    model: Model,
    checkpoint: Any,
    question: Question,
    rows: Sequence[Mapping[str, Any]],
    gguf: Path,
    *,
    label: str,
    allowed: Limits,
    adapter: Path | None = None,
    threads: int,
    step: Step,
) -> tuple[Proof, list[Passage], Answer]:
    """Hold an unquantized file to transformers, on the built-in prompts and the held-out conversations.

    Args:
        model: the tokenizer and configuration.
        checkpoint: the weights for transformers.
        question: what the file's tokenizer is held to.
        rows: held-out conversations; may be empty.
        gguf: the file.
        label: what messages call it.
        allowed: its limits.
        adapter: an adapter file that is loaded beside it.
        threads: CPU threads.
        step: opens a step of the progress.

    Returns:
        The proof, all that was read, and the file's answer to it.

    Raises:
        VerificationFailed: it is not the same model.
    """
    context = context_length(model.config)
    prompts = make_prompts(model.tokenizer, question.samples, limit=min(PROMPT_LIMIT, context - CONTINUATION))
    positions = sum(len(prompt) + CONTINUATION for prompt in prompts)
    room = max(_LOGIT_BYTES // (4 * model.config.vocab_size) - positions, _LEAST_PREDICTIONS)
    passages = held_out(rows, model.tokenizer, predictions=min(PREDICTIONS, room), length=min(LENGTH, context))

    with step(f"llama.cpp, {label}", len(prompts) + len(passages)) as advance:
        answer = ask(
            gguf, label, question, prompts=prompts, passages=passages, adapter=adapter, threads=threads, advance=advance
        )
    passages = [*(Passage(ids, list(range(len(ids)))) for ids in answer.continued), *passages]
    with step("transformers, float32", len(passages)) as advance:
        divergence, same = against_transformers(
            checkpoint, model.config, answer, prompts, passages, threads=threads, advance=advance
        )
    check(label, divergence, allowed, reference="transformers'")
    proof = Proof(
        subject=f"{label} file" if adapter is None else label,
        texts=len(question.samples),
        mixture_texts=sum(sample.of_mixture for sample in question.samples),
        continuations=len(prompts),
        same_continuations=same,
        divergence=divergence,
        limits=allowed,
    )
    return proof, passages, answer
