"""A GGUF of 118 million parameters that writes a long Markdown document by heart, for the benchmarks of koala-tui.

Its arithmetic is that of any Llama of its size: every matrix is there and is multiplied. But each token's embedding is
a direction of its own, attention and feed-forward add nothing to it, and the output layer leads from each token to the
next one of the document. So a token may occur only once, and the model is as wide as its vocabulary is large.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
from gguf.quants import quantize

from tests.tiny_gguf import CONTROL, KOALA_TEMPLATE, MERGES, byte_symbols

WIDTH = 4352
HEADS, KV_HEADS = 34, 2
HIDDEN = 3072
N_CTX = 8192
WORDS = ("koala", "leaf", "branch", "sleep", "river", "stone", "cloud", "model", "token", "shade")


def document(tokens: int) -> list[str]:
    """Return a document of this many tokens, no two alike: paragraphs, lists, tables and code in turn."""
    parts = itertools.chain.from_iterable(map(_section, itertools.count()))
    return list(itertools.islice(itertools.chain([" Here"], parts), tokens))


def table(tokens: int) -> list[str]:
    """Return one table of about this many tokens, no two alike, four in each row."""
    rows = itertools.count()
    head = [" Table:\n\n", "| name | size ", "| share | note |\n", "|---|---|---|---|\n"]
    return (head + list(itertools.chain.from_iterable(map(_row, itertools.islice(rows, tokens // 4)))))[:tokens]


def _row(number: int) -> list[str]:
    return [f"| name{number} ", f"| {number}.5 ", f"| {number} % ", f"| {WORDS[number % 10]} of row {number} |\n"]


def _section(number: int) -> Iterator[str]:
    def word(index: int) -> str:
        return f"{WORDS[index % 10]}{number}x{index}"

    yield f"\n\n## Part {number}\n\n"
    for index in range(40):
        yield f" {word(index)}" + (".\n\n" if index == 39 else "")
    for item in range(8):
        yield f"- **{word(50 + item)}**"
        yield from (f" {word(100 + 10 * item + index)}" for index in range(4))
        yield f" {word(60 + item)}.\n"
    yield f"\n| a{number} | b |\n|---|---|\n"
    for row in range(12):
        yield f"| {word(200 + row)} "
        yield f"| `{word(300 + row)}` |\n"
    yield f"\n```python\n# part {number}\n"
    for line in range(12):
        yield f"def f{number}_{line}(x):"
        yield f"\n    return x + {number}_{line}\n"
    yield f"# end of part {number}\n```\n"


def write(path: Path, reply: list[str]) -> Path:
    """Write the model that says `reply` to any message in Koala's prompt format; weights in Q8_0.

    Raises:
        ValueError: the reply has more tokens than the model is wide, or one twice.
    """
    symbols = byte_symbols()
    spelled = ["".join(symbols[byte] for byte in token.encode()) for token in reply]
    tokens = CONTROL + list(symbols.values()) + [left + right for left, right in MERGES] + spelled
    if len(set(tokens)) != len(tokens) or len(tokens) > WIDTH:
        raise ValueError(f"{len(tokens)} tokens, {len(set(tokens))} of them distinct; the model has room for {WIDTH}")
    chain = [tokens.index(symbols[ord(":")]), *range(len(tokens) - len(reply), len(tokens)), CONTROL.index("</s>")]

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("Markdown by heart")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_context_length(N_CTX)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if token in CONTROL else gguf.TokenType.NORMAL for token in tokens])
    writer.add_token_merges([f"{left} {right}" for left, right in MERGES])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(True)
    writer.add_chat_template(KOALA_TEMPLATE)
    for name, tensor in _tensors(len(tokens), chain):
        if tensor.ndim == 1:
            writer.add_tensor(name, tensor)
        else:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, quantize(tensor, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors(vocabulary: int, chain: list[int]) -> Iterator[tuple[str, np.ndarray]]:
    random = np.random.default_rng(0)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return (random.standard_normal((rows, columns), dtype=np.float32) / np.sqrt(columns)).astype(np.float32)

    ones = np.ones(WIDTH, dtype=np.float32)
    embedding = np.eye(vocabulary, WIDTH, dtype=np.float32)
    output = np.zeros((vocabulary, WIDTH), dtype=np.float32)
    for current, following in itertools.pairwise(chain):
        output[following] += 2 * embedding[current]
    yield "token_embd.weight", embedding
    yield "output_norm.weight", ones
    yield "output.weight", output
    yield "blk.0.attn_norm.weight", ones
    yield "blk.0.ffn_norm.weight", ones
    yield "blk.0.attn_q.weight", matrix(WIDTH, WIDTH)
    yield "blk.0.attn_k.weight", matrix(WIDTH // HEADS * KV_HEADS, WIDTH)
    yield "blk.0.attn_v.weight", matrix(WIDTH // HEADS * KV_HEADS, WIDTH)
    yield "blk.0.attn_output.weight", np.zeros((WIDTH, WIDTH), dtype=np.float32)
    yield "blk.0.ffn_gate.weight", matrix(HIDDEN, WIDTH)
    yield "blk.0.ffn_up.weight", matrix(HIDDEN, WIDTH)
    yield "blk.0.ffn_down.weight", np.zeros((WIDTH, HIDDEN), dtype=np.float32)
