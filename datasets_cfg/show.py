"""`python -m datasets_cfg show`: read the conversations of a mixture in the terminal, as text or as tokens."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from .base_tokenizer import load_tokenizer
from .errors import BadInput
from .prompt import IGNORED, Encoded, encode
from .tokenization import load_manifest, split_files

_BIDI_CONTROLS = {
    0x061C: "ALM",
    0x200E: "LRM",
    0x200F: "RLM",
    0x202A: "LRE",
    0x202B: "RLE",
    0x202C: "PDF",
    0x202D: "LRO",
    0x202E: "RLO",
    0x2066: "LRI",
    0x2067: "RLI",
    0x2068: "FSI",
    0x2069: "PDI",
}
_SYMBOLS = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"},  # ESC becomes ␛
    0x7F: "␡",
    **dict.fromkeys(range(0x80, 0xA0), "\N{REPLACEMENT CHARACTER}"),
    **{code: f"⟨{name}⟩" for code, name in _BIDI_CONTROLS.items()},
    0x2028: "\n",
    0x2029: "\n",
}

_TRAINED, _WITHOUT_LOSS = "bold green", "dim"
_BORDER = "¦"


def add_command(commands) -> None:
    """Add the subcommand to the subparsers of `python -m datasets_cfg`."""
    command = commands.add_parser("show", help="read conversations of a mixture", description=_show.__doc__)
    command.add_argument("mixture", type=Path, metavar="DIR", help="a folder that `build` wrote")
    command.add_argument("--source", metavar="S", help="of this source alone")
    command.add_argument("--id", metavar="I", help="the one with this id, whatever its split")
    command.add_argument("--split", choices=("train", "eval"), help="default: train")
    command.add_argument("--limit", type=int, default=5, metavar="N", help="at most so many (default %(default)s)")
    command.add_argument(
        "--tokenizer", metavar="T", help="a folder or hub id: show the tokens, and which of them carry loss"
    )
    command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    command.set_defaults(run=_show)


def _show(options: argparse.Namespace) -> None:
    """Print conversations of a mixture; with a tokenizer, as the tokens that a model is trained on."""
    from rich.console import Console

    sources = load_manifest(options.mixture)["sources"]
    if options.source is not None and options.source not in sources:
        raise BadInput(f"{options.mixture} has no source {options.source}; it has {', '.join(sources)}")
    if options.limit < 1:
        raise BadInput(f"--limit must be at least 1, not {options.limit}")
    splits = [options.split or "train"] if options.split or options.id is None else ["train", "eval"]
    tokenizer = load_tokenizer(options.tokenizer) if options.tokenizer else None

    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    shown = 0
    for row in _rows(options.mixture, splits, options.source, options.id):
        if shown:
            console.print()
        _print_header(console, row)
        if tokenizer is None:
            _print_turns(console, row["messages"])
        else:
            _print_tokens(console, tokenizer, encode(tokenizer, row["messages"], **row["chat_template_kwargs"]))
        shown += 1
        if shown == options.limit:
            break
    if not shown:
        wanted = [f"of {options.source}"] if options.source is not None else []
        wanted += [f"with the id {options.id}"] if options.id is not None else []
        raise BadInput(f"{options.mixture} has no {' or '.join(splits)} conversation {' '.join(wanted)}".rstrip())


def harmless(text: str) -> str:
    """The text with every control character, but newline and tab, as a visible symbol.

    That is C0, DEL, C1 and the controls of the writing direction; the Unicode line separators become newlines.
    """
    return text.translate(_SYMBOLS)


def token_texts(tokenizer, ids: list[int]) -> list[tuple[int, str]]:
    """The text of token ids, as (number of tokens, text): more than one token where they share a character."""
    texts: list[tuple[int, str]] = []
    before = first = 0
    for last in range(1, len(ids) + 1):
        # With what stands before: some decoders drop the space of the first token.
        context, whole = _decode(tokenizer, ids[before:first]), _decode(tokenizer, ids[before:last])
        # At the end of a text, half a character looks like a replacement character. It becomes another one with the
        # tokens that follow, three at most.
        odd = whole.endswith("\N{REPLACEMENT CHARACTER}")
        if odd and not all(_decode(tokenizer, ids[before : last + more]).startswith(whole) for more in (1, 2, 3)):
            continue
        texts.append((last - first, whole[len(context) :]))
        before, first = before if odd else first, last
    return texts


def _decode(tokenizer, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) if ids else ""


def _rows(folder: Path, splits: list[str], source: str | None, id_: str | None) -> Iterator[dict]:
    """The conversations of some splits of a mixture, in their order."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    columns = ["id", "source", "messages", "chat_template_kwargs"]
    for file in (file for split in splits for file in split_files(folder, split)):
        for batch in pq.ParquetFile(file).iter_batches(1_000, columns=columns):
            for column, wanted in (("source", source), ("id", id_)):
                if wanted is not None:
                    batch = batch.filter(pc.equal(batch[column], wanted))
            yield from batch.to_pylist()


def _print_header(console, row: dict) -> None:
    from rich.text import Text

    variables = " ".join(f"{name}={value}" for name, value in row["chat_template_kwargs"].items() if value is not None)
    console.print(
        Text(_line(row["id"]), "bold").append(f"  {_line(row['source'])}  {_line(variables)}", "not bold dim")
    )


def _print_turns(console, messages: list[dict]) -> None:
    from rich.text import Text

    for message in messages:
        style = "bold green" if message["role"] == "assistant" else "bold cyan"
        console.print(
            Text(f"{_line(message['role'])}: ", style).append(harmless(message["content"]), "not bold default")
        )


def _print_tokens(console, tokenizer, encoded: Encoded) -> None:
    """Print each token: underlined by turns, with loss in green. Without colour, marks stand for both."""
    from rich.text import Text

    colour = console.color_system is not None and not console.no_color
    text = Text()
    place, inside = 0, False
    for number, (count, spelled) in enumerate(token_texts(tokenizer, encoded.input_ids)):
        trained = encoded.labels[place] != IGNORED
        place += count
        spelled = harmless(spelled).replace("\n", "↵\n")
        if colour:
            text.append(spelled, f"{_TRAINED if trained else _WITHOUT_LOSS}{' underline' if number % 2 else ''}")
            continue
        if trained != inside:
            text.append("⟦" if trained else "⟧")
        elif number:
            text.append(_BORDER)
        text.append(spelled)
        inside = trained
    text.append("" if colour or not inside else "⟧")
    console.print(text)
    trained = sum(label != IGNORED for label in encoded.labels)
    console.print(Text(f"{len(encoded.input_ids):,} tokens, {trained:,} of them trained", "dim"))


def _line(text: str) -> str:
    """Harmless, and in one line."""
    return " ".join(harmless(text).split())
