"""The model card: README.md beside the GGUFs, which the hub shows and a stranger reads first.

What is not known is left out. Names, datasets and licences come from files that anybody may have written, so they are
escaped: they can neither break out of their place nor draw links, tags or tables of their own.
"""

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]+)*", re.ASCII)
_LICENSE_ID = re.compile(r"[a-z0-9][a-z0-9.-]*", re.ASCII)
_EXAMPLES = ("Q4_K_M", "Q5_K_M", "Q4_K_S", "Q6_K", "Q8_0")
"""Types for the commands of the card, the one that suits most readers first."""

_ADVICE = {
    16: "The weights as they were trained. For making other types; for chatting, 8 bits are as good and much smaller.",
    8: "Practically the same answers as the original. Take it where it fits.",
    6: "Very hard to tell from the original, and a quarter smaller than Q8_0.",
    5: "Close to the original. Take it where Q6_K just does not fit.",
    4: "The usual choice for a laptop: small and fast, and the loss rarely shows.",
    3: "Answers get noticeably worse. Take it only where 4 bits do not fit.",
    2: "For the smallest machines. A smaller model in 4 bits is often the better one.",
    1: "An experiment. Expect wrong and broken answers.",
}
"""When to choose a type, by the bits in its name; the unquantized types count as 16."""


@dataclass(frozen=True)
class CardFile:
    """One model file; a value that was not measured is None and not shown.

    Attributes:
        names: its name, or the names of its parts in order.
        file_type: `Q4_K_M`.
        size: bytes, of all parts together.
        ram: bytes of memory with 4,096 tokens of context (`choose.ram_needed(…).total`).
        kld: mean Kullback-Leibler divergence from the unquantized file, in nats.
        top1: share of the tokens for which it has the same first choice as the unquantized file.
        perplexity: on the same text.
        tokens_per_second: while it writes.
    """

    names: tuple[str, ...]
    file_type: str
    size: int
    ram: int | None = None
    kld: float | None = None
    top1: float | None = None
    perplexity: float | None = None
    tokens_per_second: float | None = None


@dataclass(frozen=True)
class CardProof:
    """What the files were held to before they were given out.

    Attributes:
        texts: texts and conversations whose token ids were compared.
        positions: tokens after which llama.cpp's predictions were compared with transformers'.
        held_out_tokens: tokens on which the quantized files were compared with the unquantized one; None if they
            were not.
        held_out: what these tokens are of ("conversations of koala_all that the model was not trained on").
        machine: where the tokens per second were measured.
        reports: names of the report files beside the card.
    """

    texts: int
    positions: int
    held_out_tokens: int | None = None
    held_out: str | None = None
    machine: str | None = None
    reports: tuple[str, ...] = ()


@dataclass(frozen=True)
class Card:
    """What is known of a model and its files; empty or None where nothing is.

    Attributes:
        name: the model's name.
        files: the GGUFs, as the table shall list them.
        source: the checkpoint that was converted: a hub id or a name, never a path of this machine.
        parameters: number of weights.
        context: tokens that the model was made for.
        base_models: what the checkpoint was trained from: hub ids or names.
        datasets: what it was trained on: hub ids or names.
        mixture: the name of the Koala mixture, and `mixture_digest` its hash.
        languages: ISO 639 codes.
        license: SPDX identifier, or whatever the checkpoint's card says.
        license_name, license_link: of an unusual licence.
        imatrix: what the importance matrix was computed on; None if there is none.
        proof: None for files that were not verified.
        modelfile: name of the Ollama Modelfile beside the card, or None.
        no_modelfile: why there is none (the message of `modelfile.NoModelfile`).
        chat_template: whether the files have one.
        versions: the programs that made the files ("llama-cpp-python 0.3.36").
    """

    name: str
    files: Sequence[CardFile]
    source: str | None = None
    parameters: int | None = None
    context: int | None = None
    base_models: Sequence[str] = ()
    datasets: Sequence[str] = ()
    mixture: str | None = None
    mixture_digest: str | None = None
    languages: Sequence[str] = ()
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    imatrix: str | None = None
    proof: CardProof | None = None
    modelfile: str | None = None
    no_modelfile: str | None = None
    chat_template: bool = True
    versions: Sequence[str] = ()


def model_card(card: Card) -> str:
    """The card as Markdown with YAML front matter."""
    sections = (_introduction, _files, _usage, _verification, _data, _limits, _licence)
    return "\n\n".join([_front_matter(card), *(section(card) for section in sections)]) + "\n"


def first_choice(files: Sequence[CardFile]) -> CardFile:
    """The file that suits most readers, for the examples."""
    return min(files, key=lambda file: _EXAMPLES.index(file.file_type) if file.file_type in _EXAMPLES else 99)


def advice(file_type: str) -> str:
    """One sentence or two on when to choose a type."""
    return _ADVICE[_bits(file_type)]


def _front_matter(card: Card) -> str:
    import yaml

    hub_bases = [name for name in card.base_models if _is_hub_id(name)]
    facts = {
        **_license_fields(card),
        "language": [code for code in card.languages if _LANGUAGE.fullmatch(code)],
        "base_model": card.source if _is_hub_id(card.source) else hub_bases,
        # The files are a quantized form of the checkpoint, not of what that was trained from.
        "base_model_relation": "quantized" if _is_hub_id(card.source) else "finetune" if hub_bases else None,
        "datasets": [name for name in card.datasets if _is_hub_id(name)],
        "library_name": "gguf",
        "pipeline_tag": "text-generation",
        "tags": ["gguf", "llama.cpp", *(["conversational"] if card.chat_template else []), *_imatrix_tag(card)],
    }
    known = {key: value for key, value in facts.items() if value}
    return f"---\n{yaml.safe_dump(known, sort_keys=False, allow_unicode=True, width=10**6)}---"


def _license_fields(card: Card) -> dict[str, str]:
    text = card.license
    if not text:
        return {}
    named = {"license_name": card.license_name, "license_link": card.license_link}
    if text == "other" and card.license_name:
        return {"license": "other", **{key: _one_line(value) for key, value in named.items() if value}}
    identifier = text.strip().lower()
    # The hub knows identifiers only; everything else is "other" with a name.
    if _LICENSE_ID.fullmatch(identifier):
        return {"license": identifier}
    return {"license": "other", "license_name": _one_line(text)}


def _imatrix_tag(card: Card) -> list[str]:
    return ["imatrix"] if card.imatrix else []


def _introduction(card: Card) -> str:
    made = f", converted from {_named(card.source)}" if card.source else ""
    text = (
        f"# {_escaped(card.name)} (GGUF)\n\n"
        f"{_escaped(card.name)} as GGUF files, which llama.cpp and the programs built on it run on ordinary computers, "
        f"with or without a GPU{made}."
    )
    facts = []
    if card.parameters:
        facts.append(f"{_parameters(card.parameters)} parameters")
    if card.context:
        facts.append(f"a context of {card.context:,} tokens")
    if facts:
        text += f" The model has {' and '.join(facts)}."
    return text


def _files(card: Card) -> str:
    columns = {
        "file": [_code(file.names[0], table=True) + _parts_note(file) for file in card.files],
        "type": [_escaped(file.file_type) for file in card.files],
        "size": [_size(file.size) for file in card.files],
        "RAM at 4k": [_optional(file.ram, _size) for file in card.files],
        "mean KLD": [_optional(file.kld, "{:.2g}".format) for file in card.files],
        "same first choice": [_optional(file.top1, "{:.1%}".format) for file in card.files],
        "perplexity": [_optional(file.perplexity, "{:.2f}".format) for file in card.files],
        "tokens/s": [_optional(file.tokens_per_second, "{:.1f}".format) for file in card.files],
    }
    shown = {title: cells for title, cells in columns.items() if any(cell != "–" for cell in cells)}
    lines = [
        "## Files",
        "",
        f"| {' | '.join(shown)} |",
        f"|{'|'.join(' --- ' if title in ('file', 'type') else ' ---: ' for title in shown)}|",
        *(f"| {' | '.join(row)} |" for row in zip(*shown.values(), strict=True)),
        "",
        "Which one to take:",
        "",
    ]
    by_advice: dict[str, list[str]] = {}
    for file in card.files:
        by_advice.setdefault(advice(file.file_type), []).append(_escaped(file.file_type))
    lines += [f"- **{', '.join(types)}**: {sentence}" for sentence, types in by_advice.items()]
    lines += ["", *_explained(card, shown)]
    return "\n".join(lines).rstrip()


def _explained(card: Card, shown: dict[str, list[str]]) -> list[str]:
    """What the columns mean that do not explain themselves."""
    sentences = []
    if "RAM at 4k" in shown:
        sentences.append(
            "*RAM at 4k* is reckoned for 4,096 tokens of context, or the model's own if that is less, on a CPU."
        )
    if "mean KLD" in shown:
        sentences.append(
            "*Mean KLD* says how far the predictions are from those of the unquantized file, in nats: 0 is identical."
        )
    if "same first choice" in shown:
        sentences.append("*Same first choice* is the share of tokens for which both would write the same next token.")
    if "perplexity" in shown:
        sentences.append("*Perplexity*: how surprised the model is by the text; lower is better.")
    if "tokens/s" in shown and card.proof and card.proof.machine:
        sentences.append(f"*Tokens/s* while writing, on {_escaped(card.proof.machine)}.")
    if card.imatrix:
        sentences.append(f"Quantized with an importance matrix, computed on {_escaped(card.imatrix)}.")
    return [" ".join(sentences)] if sentences else []


def _usage(card: Card) -> str:
    example = first_choice(card.files)
    name = example.names[0]
    blocks = ["## How to run"]
    if len(example.names) > 1:
        blocks.append(
            f"Download all {len(example.names)} parts into one folder; programs are given the first and find the rest."
        )
    quoted = shlex.quote(name if not name.startswith("-") else f"./{name}")
    if card.chat_template:
        blocks += [
            "With koala-tui, Koala's chat for the terminal:",
            _fenced(f"koala-tui {quoted}", "sh"),
        ]
    blocks += [
        "With llama.cpp, in the terminal or as a server (a web page and an OpenAI-compatible interface on port 8080):",
        _fenced(f"llama-cli -m {quoted}\nllama-server -m {quoted}", "sh"),
    ]
    if card.modelfile:
        short = _ollama_name(card.name)
        blocks += [
            f"With Ollama ({_code(card.modelfile)} has the model's own prompt format, so take it from here, too):",
            _fenced(f"ollama create {short} -f {shlex.quote(card.modelfile)}\nollama run {short}", "sh"),
        ]
    elif card.no_modelfile:
        blocks.append(f"There is no Modelfile for Ollama: {_escaped(card.no_modelfile)}.")
    call = (
        'reply = model.create_chat_completion([{"role": "user", "content": "Who are you?"}])\n'
        'print(reply["choices"][0]["message"]["content"])'
        if card.chat_template
        else 'print(model.create_completion("The koala is")["choices"][0]["text"])'
    )
    blocks += [
        "With llama-cpp-python:",
        _fenced(
            f"from llama_cpp import Llama\n\nmodel = Llama({json.dumps(name, ensure_ascii=False)}, n_ctx=4096)\n{call}",
            "python",
        ),
    ]
    return "\n\n".join(blocks)


def _verification(card: Card) -> str:
    proof = card.proof
    if proof is None:
        return (
            "## Verification\n\n**These files have not been verified.** They were made without comparing them with the "
            "checkpoint, so a wrong tokenizer, template or weight would have gone unnoticed. The files say so, too "
            "(`koala.verified` is false)."
        )
    points = [
        f"**Token ids**: llama.cpp makes the same tokens as the original tokenizer from {proof.texts:,} texts and "
        "conversations: prose, code, numbers, emoji, many scripts, white space"
        + (", and the chat template." if card.chat_template else "."),
        "**Ends of answers**: every end token of the original ends an answer here.",
        f"**Predictions**: the unquantized file in llama.cpp and the original in transformers predict the same at "
        f"{proof.positions:,} positions; every file in the table was compared in the same way.",
    ]
    if proof.held_out_tokens:
        text = f" of {_escaped(proof.held_out)}" if proof.held_out else ""
        points.append(
            f"**Quantization**: the figures in the table compare each file with the unquantized one on "
            f"{proof.held_out_tokens:,} tokens{text}."
        )
    lines = [
        "## Verification",
        "",
        "Before a file got its name it was held to the checkpoint that it was made from:",
        "",
    ]
    lines += [f"- {point}" for point in points]
    if proof.reports:
        lines += ["", f"All figures are in {', '.join(_code(name) for name in proof.reports)}."]
    if card.versions:
        lines += ["", f"Made with {', '.join(map(_escaped, card.versions))}."]
    return "\n".join(lines)


def _data(card: Card) -> str:
    lines = []
    if card.base_models:
        lines.append(f"- Trained from: {', '.join(map(_named, card.base_models))}")
    if card.datasets:
        lines.append(f"- Data: {', '.join(map(_named, card.datasets))}")
    if card.mixture:
        digest = f" ({_code(card.mixture_digest)})" if card.mixture_digest else ""
        lines.append(f"- Koala mixture: {_escaped(card.mixture)}{digest}")
    if card.languages:
        lines.append(f"- Languages: {', '.join(map(_escaped, card.languages))}")
    if not lines:
        lines.append("The checkpoint says nothing about what it was trained on.")
    return "\n".join(["## Data", "", *lines])


def _limits(card: Card) -> str:
    measured = any(file.kld is not None for file in card.files)
    points = [
        "Like every language model it can state false things with confidence, repeat what is bad in its data, and give "
        "unsafe advice. Check what matters; nothing here filters its answers.",
        "Fewer bits change the model"
        + (": the table says by how much on average, single answers can differ more." if measured else "."),
    ]
    if card.context:
        points.append(f"It was made for {card.context:,} tokens; beyond that it falls apart.")
    if card.chat_template:
        points.append(
            "It expects its own prompt format, which is inside the files. Some programs, Ollama among them, take a "
            "control token that somebody writes in a message (`</s>`, say) for a real one; koala-tui takes it for text."
        )
    return "\n".join(["## Limits", "", *(f"- {point}" for point in points)])


def _licence(card: Card) -> str:
    if not card.license:
        return (
            "## Licence\n\nThe checkpoint names no licence. Ask its authors before you use these files or pass them on."
        )
    bases = f" and of what it was trained from ({', '.join(map(_named, card.base_models))})" if card.base_models else ""
    return (
        f"## Licence\n\n{_escaped(card.license_name or card.license)}, as the checkpoint says. The terms of the "
        f"checkpoint{bases} hold for these files, too."
    )


def _bits(file_type: str) -> int:
    if file_type in ("F32", "F16", "BF16"):
        return 16
    return int(re.search(r"\d", file_type)[0])


def _is_hub_id(name: str | None) -> bool:
    return bool(name and _HUB_ID.fullmatch(name))


def _named(name: str) -> str:
    # A hub id has no character that could end the link.
    return f"[{_escaped(name)}](https://huggingface.co/{name})" if _is_hub_id(name) else _escaped(name)


def _one_line(text: str) -> str:
    return "".join(character for character in " ".join(text.split()) if character.isprintable())


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    line = _one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*{}\[\]()#|~$!]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", line)
    # The hub makes links of bare addresses.
    line = line.replace("://", "&#58;//").replace("www.", "www&#46;").replace("@", "&#64;")
    # At the beginning of a line these would begin a list.
    return re.sub(r"^(\d*)([-+.)])", r"\1\\\2", line)


def _code(text: str, *, table: bool = False) -> str:
    """A code span, whatever back-ticks the text holds."""
    line = _one_line(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    space = " " if "`" in line else ""
    # In a table a bar ends the cell even inside of code.
    return f"{fence}{space}{line.replace('|', chr(92) + '|') if table else line}{space}{fence}"


def _fenced(code: str, language: str) -> str:
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", code)), default=0))
    return f"{fence}{language}\n{code}\n{fence}"


def _ollama_name(name: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._") or "model"


def _parts_note(file: CardFile) -> str:
    return f" and {len(file.names) - 1} more" if len(file.names) > 1 else ""


def _optional(value, show) -> str:
    return "–" if value is None else show(value)


def _parameters(count: int) -> str:
    for unit, scale in (("billion", 1e9), ("million", 1e6)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:,}"


def _size(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
