"""Hold GGUFs in llama.cpp to what they are made of: the checkpoint in transformers, or the unquantized file."""

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets_cfg.errors import BadInput
from datasets_cfg.prompt import Piece

from .checkpoint import Checkpoint
from .child import ChildFailed, run_child
from .corpus import TEXTS
from .divergence import Divergence, measure
from .file_types import UNQUANTIZED, Limits
from .full_disk import cannot_write
from .passages import Passage
from .reference import Sample, reference_logits
from .verdict import Speed, VerificationFailed

if TYPE_CHECKING:
    import numpy as np

CONTINUATION = 24
"""Tokens that the model continues each prompt with."""

_NO_MEMORY = re.compile(r"llama\.cpp ended with SIGKILL|\w*MemoryError")
_SYSTEM_ERROR = re.compile(r"\w*Error: (?:\[Errno (\d+)\]|(\d+ requested and \d+ written))")


@dataclass(frozen=True)
class Question:
    """What every file of a conversion is asked.

    Attributes:
        samples: texts and rendered conversations with the ids that they must have.
        stop_ids: ids that must end an answer.
        chat_template: what the file must hold.
        tokenizer: transformers' tokenizer, to show ids as tokens.
        prepare: what a program does to a text before it gives it to llama.cpp (`TokenizerFields.before_llama_cpp`).
    """

    samples: list[Sample]
    stop_ids: list[int]
    chat_template: str | None
    tokenizer: Any
    prepare: Callable[[str], str]


@dataclass(frozen=True)
class Answer:
    """What a file said.

    Attributes:
        logits: float32 of shape (positions of all passages, vocabulary), mapped from disk.
        continued: the prompts with the file's own greedy continuations.
        speed: as measured.
    """

    logits: "np.ndarray"
    continued: list[list[int]]
    speed: Speed


def prove_tokenizer(gguf: Path, question: Question, *, threads: int) -> None:
    """Hold the tokenizer, the end tokens and the template of a GGUF to the question; no weights are needed.

    Raises:
        BadInput, VerificationFailed: as `ask`.
    """
    _run(gguf, "tokenizer", question, prompts=[], passages=[], threads=threads, advance=lambda amount: None)


def ask(
    gguf: Path,
    file_type: str,
    question: Question,
    *,
    prompts: Sequence[list[int]] = (),
    passages: Sequence[Passage],
    adapter: Path | None = None,
    threads: int,
    advance: Callable[[int], None],
) -> Answer:
    """Load the file in llama.cpp, hold its tokenizer to transformers', and get its logits.

    Args:
        gguf: the file; the logits are written beside it, under its name with the suffix `.logits`.
        file_type: its type, for messages.
        question: what the file is held to.
        prompts: token ids that are continued greedily by `CONTINUATION` tokens; their logits come first.
        passages: more to get the logits of.
        adapter: an adapter file that is loaded beside it.
        threads: CPU threads.
        advance: called with 1 after each prompt and passage.

    Raises:
        BadInput: there is not enough memory or disk for the check.
        VerificationFailed: another id, an end token that does not end, another template; or llama.cpp cannot run it.
    """
    import numpy as np

    said = _run(
        gguf,
        file_type,
        question,
        prompts=prompts,
        passages=passages,
        adapter=adapter,
        threads=threads,
        advance=advance,
    )
    logits = np.memmap(gguf.with_suffix(".logits"), dtype=np.float32, mode="r").reshape(-1, said["vocabulary"])
    return Answer(logits, said["continued"], Speed(**said["speed"]))


def against_transformers(
    checkpoint: Checkpoint,
    config: Any,
    answer: Answer,
    prompts: Sequence[list[int]],
    passages: Sequence[Passage],
    *,
    threads: int,
    advance: Callable[[int], None],
) -> tuple[Divergence, int]:
    """Compare the unquantized file's logits with transformers'.

    Args:
        checkpoint: what the file was made of.
        config: its configuration.
        answer: the file's.
        prompts: that it continued.
        passages: the continued prompts, and what else was read, in the order of the logits.
        threads: CPU threads.
        advance: called with 1 after each passage.

    Returns:
        The divergence, and how many of the greedy continuations are exactly those that transformers would write.
    """
    import numpy as np

    same = 0

    def parts() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        nonlocal same
        start, left = 0, list(passages)
        beginnings = [len(prompt) for prompt in prompts]
        for reference in reference_logits(checkpoint, config, passages, threads=threads, advance=advance):
            end = start + len(reference)
            at = 0
            while at < len(reference):
                passage = left.pop(0)
                if beginnings:
                    begin = beginnings.pop(0)
                    choices = reference[at + begin - 1 : at + len(passage.ids) - 1].argmax(axis=1)
                    same += choices.tolist() == passage.ids[begin:]
                at += len(passage.positions)
            yield reference, answer.logits[start:end], following(passages)[start:end]
            start = end

    return measure(parts()), same


def following(passages: Sequence[Passage]) -> "np.ndarray":
    """The token after each position of all passages, -1 where it is not held out; int64 of shape (positions,)."""
    import numpy as np

    return np.array(
        [passage.ids[at + 1] if passage.held_out else -1 for passage in passages for at in passage.positions]
    )


def check(file_type: str, found: Divergence, allowed: Limits, *, reference: str) -> None:
    """Raise `VerificationFailed` where a file is further from its `reference` than its type may be."""
    advice = (
        "the weights or the hyper-parameters are not the checkpoint's; please report this"
        if file_type in UNQUANTIZED
        else "choose a larger type, try --imatrix, or keep it all the same with --no-verify"
    )
    # Written so that a divergence that is not a number fails.
    if not found.kld <= allowed.kld:
        raise VerificationFailed(
            f"{file_type}: its predictions are {found.kld:.2g} nats (mean KLD) from {reference}, the limit is "
            f"{allowed.kld:g}; {advice}"
        )
    if allowed.largest is not None and not found.largest <= allowed.largest:
        raise VerificationFailed(
            f"{file_type}: one of its logits is {found.largest:.2g} of the largest logit away from {reference}, the "
            f"limit is {allowed.largest:g}; {advice}"
        )
    if allowed.tie is not None and not found.lost <= allowed.tie:
        raise VerificationFailed(
            f"{file_type}: its first choice is once one that comes {found.lost:.2g} standard deviations below the "
            f"first choice of {reference}, the limit is {allowed.tie:g}; {advice}"
        )


def first_difference(sample: Sample, actual: list[int], tokenizer: Any) -> str | None:
    """Both tokenizations around the first id that differs, or None if none does."""
    if sample.ids == actual:
        return None
    pairs = zip(sample.ids, actual, strict=False)
    at = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(sample.ids), len(actual)))
    before = tokenizer.decode(sample.ids[max(at - 6, 0) : at], clean_up_tokenization_spaces=False)
    text = sample.text if len(sample.text) <= 80 else f"{sample.text[:80]}…"
    return (
        f"the text {text!r} differs at token {at}, after {before!r}:\n"
        f"  transformers: {_shown(sample.ids[at : at + 8], tokenizer)}\n"
        f"  llama.cpp:    {_shown(actual[at : at + 8], tokenizer)}"
    )


def _run(
    gguf: Path,
    file_type: str,
    question: Question,
    *,
    prompts: Sequence[list[int]],
    passages: Sequence[Passage],
    adapter: Path | None = None,
    threads: int,
    advance: Callable[[int], None],
) -> dict[str, Any]:
    """Let `probe` work on the file, and return all that it reported."""
    said: dict[str, Any] = {"continued": []}

    def on_report(report: dict) -> None:
        if "passages" in report:
            advance(report["passages"])
            return
        if "ids" in report:
            # At once, since the logits may take long; leaving by an exception ends the process that computes them.
            _check_tokens(file_type, question, report)
        said.update(report)

    texts = [
        [
            {"text": piece.text if piece.control else question.prepare(piece.text), "control": piece.control}
            for piece in sample.pieces
        ]
        for sample in question.samples
    ]
    content = {
        "texts": texts,
        "plain": TEXTS[0],
        "stop_ids": question.stop_ids,
        "prompts": list(prompts),
        "continuation": CONTINUATION,
        "passages": [{"ids": passage.ids, "positions": passage.positions} for passage in passages],
    }
    file = gguf.with_suffix(".question.json")
    request = {
        "gguf": str(gguf),
        "adapter": str(adapter) if adapter else None,
        "question": str(file),
        "logits": str(gguf.with_suffix(".logits")),
        "threads": threads,
    }
    try:
        file.write_text(json.dumps(content), encoding="utf-8")
        run_child("convert.probe", request, on_report)
    except ChildFailed as failure:
        _check_room(gguf, failure)
        raise VerificationFailed(f"{file_type}: llama.cpp cannot run the file: {failure}") from failure
    finally:
        file.unlink(missing_ok=True)
    return said


def _check_room(gguf: Path, failure: ChildFailed) -> None:
    """Raise `BadInput` if the child failed for want of memory or disk, which says nothing about the model."""
    # A child passes exceptions on as text, its own end by a signal too.
    said = str(failure)
    if _NO_MEMORY.match(said):
        raise BadInput(
            "the system ended llama.cpp, most likely for lack of memory; close other programs, or skip the check with "
            "--no-verify"
        ) from failure
    if found := _SYSTEM_ERROR.match(said):
        error = OSError(int(found[1]), os.strerror(int(found[1]))) if found[1] else OSError(found[2])
        if sentence := cannot_write(gguf.with_suffix(".logits"), error):
            raise BadInput(sentence) from failure


def _shown(ids: list[int], tokenizer: Any) -> str:
    tokens = tokenizer.convert_ids_to_tokens(ids)
    return " ".join(f"{token_id} {token!r}" for token_id, token in zip(ids, tokens, strict=True)) or "(nothing)"


def _check_tokens(file_type: str, question: Question, answers: dict[str, Any]) -> None:
    for sample, actual in zip(question.samples, answers["ids"], strict=True):
        if difference := first_difference(sample, actual, question.tokenizer):
            raise VerificationFailed(
                f"{file_type}: llama.cpp tokenizes otherwise than transformers, so the model would read other tokens "
                f"than it was trained on; {difference}"
            )
    plain = Sample([Piece(TEXTS[0], control=False)], question.tokenizer(TEXTS[0]).input_ids)
    if difference := first_difference(plain, answers["automatic"], question.tokenizer):
        raise VerificationFailed(
            f"{file_type}: llama.cpp adds other tokens to a text by itself (beginning or end of sequence) than "
            f"transformers; {difference}"
        )
    if answers["endless"]:
        tokens = question.tokenizer.convert_ids_to_tokens(answers["endless"])
        raise VerificationFailed(f"{file_type}: answers would not stop at {', '.join(map(repr, tokens))}")
    if answers["chat_template"] != question.chat_template:
        raise VerificationFailed(f"{file_type}: the chat template in the file is not the checkpoint's")
