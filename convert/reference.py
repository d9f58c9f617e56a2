"""What transformers makes of the checkpoint: the token ids and logits that a GGUF is held to."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from datasets_cfg.prompt import Piece, control_tokens, encode, render, special_tokens

from .checkpoint import Checkpoint
from .corpus import CONVERSATIONS, PROMPTS, TEXTS
from .passages import Passage

if TYPE_CHECKING:
    import numpy as np
    import torch

_SPACE = "\u2581"

BATCH_TOKENS = 4096
"""Tokens that go through the model at once; every batch reads all weights again."""


@dataclass(frozen=True)
class Sample:
    """A text in the pieces that both tokenizers get, and the ids that transformers makes of it.

    `is_prompt` is true for a built-in conversation that ends where an answer begins, `of_mixture` for a mixture's.
    """

    pieces: list[Piece]
    ids: list[int]
    is_prompt: bool = False
    of_mixture: bool = False

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(piece.text for piece in self.pieces)


def make_samples(tokenizer: Any, chat_template: str | None, rows: Sequence[Mapping[str, Any]] = ()) -> list[Sample]:
    """The built-in corpus and the sample conversations, tokenized by transformers.

    Args:
        tokenizer: the checkpoint's, with its own chat template, if it has one.
        chat_template: the one for the GGUF; the pieces for llama.cpp are rendered with it.
        rows: conversations of a mixture, which are added.
    """
    # Tokens that the user added need a place in the corpus of their own.
    added = [text for token in tokenizer.added_tokens_decoder.values() if (text := _as_written(token, tokenizer))]
    texts = [*TEXTS, *(f"a{token}b {token} c\n{token}" for token in added[:50])]
    samples = [Sample([Piece(text, control=False)], plain_ids(tokenizer, text)) for text in texts]
    if chat_template is None:
        return samples

    from jinja2 import TemplateError

    def add(messages: Sequence[Mapping[str, str]], ask: bool, of_mixture: bool = False, **variables: object) -> None:
        try:
            pieces = render(
                chat_template,
                messages,
                special_tokens(tokenizer),
                control_tokens=control_tokens(tokenizer),
                add_generation_prompt=ask,
                **variables,
            )
        except TemplateError:
            return  # the template refuses this kind of conversation; that one works is known already
        ids = encode(tokenizer, messages, add_generation_prompt=ask, **variables).input_ids
        samples.append(Sample(pieces, ids, is_prompt=ask, of_mixture=of_mixture))

    for messages in CONVERSATIONS:
        add(messages, ask=False)
        add(messages[:-1], ask=True)
    for row in rows:
        add(row["messages"], ask=False, of_mixture=True, **(row["chat_template_kwargs"] or {}))
    return samples


def _as_written(token: Any, tokenizer: Any) -> str | None:
    """What a text holds where an added token stands that is not special; None where no text can hold it."""
    text = token.content
    if token.special or not text.strip(_SPACE):
        return None
    # A SentencePiece-style normalizer makes this sign of a space before it looks for such a token.
    spaces = token.normalized and bool(tokenizer.backend_tokenizer.normalizer)
    return text.replace(_SPACE, " ") if spaces else text


def make_prompts(tokenizer: Any, samples: list[Sample], *, limit: int) -> list[list[int]]:
    """Ids of the prompts that are continued: the built-in beginnings, and the conversations up to an answer.

    Each is cut at `limit` tokens.
    """
    beginnings = [plain_ids(tokenizer, text) for text in PROMPTS]
    if tokenizer.bos_token_id is not None:
        beginnings = [[tokenizer.bos_token_id, *ids] for ids in beginnings]
    return [ids[:limit] for ids in [*beginnings, *(sample.ids for sample in samples if sample.is_prompt)] if ids]


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """The ids of a text in which nothing is special."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False).input_ids


def reference_logits(
    checkpoint: Checkpoint, config: Any, passages: Sequence[Passage], *, threads: int, advance: Callable[[int], None]
) -> "Iterator[np.ndarray]":
    """Run transformers' model on the passages in float32, with one module's weights in memory at a time.

    Args:
        checkpoint: the weights; they are read once for each batch of `BATCH_TOKENS`.
        config: transformers' configuration of the model.
        passages: what to read.
        threads: CPU threads.
        advance: called with 1 after each passage.

    Yields:
        For some passages at a time, in their order, the logits after each of their positions, float32 of shape
        (positions, vocabulary).
    """
    import torch
    from accelerate import cpu_offload, init_empty_weights
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    with init_empty_weights(include_buffers=False):
        # Plain attention is the only one that every architecture has with all of its details (Gemma's soft-capping).
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    with checkpoint.reader() as read, torch.inference_mode():
        cpu_offload(model, torch.device("cpu"), state_dict=_Weights(checkpoint, read))
        for batch in _batches(passages):
            width = max(len(passage.ids) for passage in batch)
            ids = torch.zeros(len(batch), width, dtype=torch.long)
            mask = torch.zeros_like(ids)
            for row, passage in enumerate(batch):
                ids[row, : len(passage.ids)] = torch.tensor(passage.ids)
                mask[row, : len(passage.ids)] = 1
            hidden = model.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            wanted = torch.cat([hidden[row, passage.positions] for row, passage in enumerate(batch)])
            logits = model.get_output_embeddings()(wanted)
            if cap := getattr(config, "final_logit_softcapping", None):
                logits = torch.tanh(logits / cap) * cap
            yield logits.numpy()
            advance(len(batch))


def _batches(passages: Sequence[Passage]) -> Iterator[list[Passage]]:
    """Neighbours, as many as fit into `BATCH_TOKENS` when the shorter ones are padded."""
    batch: list[Passage] = []
    for passage in passages:
        width = max(len(other.ids) for other in [*batch, passage])
        if batch and width * (len(batch) + 1) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(passage)
    if batch:
        yield batch


class _Weights(Mapping):
    """The checkpoint as a state dict that reads a tensor, in float32, whenever it is asked for one."""

    def __init__(self, checkpoint: Checkpoint, read: "Callable[[str], torch.Tensor]") -> None:
        self.names, self.read = checkpoint.tensors, read

    def __getitem__(self, name: str) -> "torch.Tensor":
        if name == "lm_head.weight" and name not in self.names:
            name = "model.embed_tokens.weight"  # tied
        return self.read(name).float()

    def __iter__(self) -> Iterator[str]:
        return iter({**dict.fromkeys(self.names), "lm_head.weight": None})

    def __len__(self) -> int:
        return len(set(self.names) | {"lm_head.weight"})
