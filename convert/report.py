"""The proof beside the files: report.json for programs, report.md for people, and the table in the terminal."""

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field

from datasets_cfg.versions import versions

from .divergence import Divergence
from .file_types import Limits
from .verdict import Speed

FORMAT = 1
"""Of report.json; a number that changes when a key changes its meaning."""

_LIBRARIES = ("torch", "transformers", "gguf", "llama-cpp-python")


@dataclass(frozen=True)
class Proof:
    """That the unquantized file is the checkpoint.

    Attributes:
        subject: what is proven, such as `BF16 file`.
        texts: texts and conversations whose token ids were compared; all are identical.
        mixture_texts: how many of them are conversations of the mixture.
        continuations, same_continuations: greedy continuations, and how many are exactly transformers'.
        divergence: from transformers in float32.
        limits: that it keeps.
    """

    subject: str
    texts: int
    mixture_texts: int
    continuations: int
    same_continuations: int
    divergence: Divergence
    limits: Limits


@dataclass(frozen=True)
class FileReport:
    """A finished file.

    Attributes:
        file_type: its type.
        names: of the file, or of its parts in their order.
        size: bytes.
        bits_per_weight: of the tensors, without the metadata.
        ram: bytes that llama.cpp needs at `Report.context` tokens; None for an adapter, which is a part of another.
        sha256: of each of `names`; empty if nothing was verified, as there is nothing to vouch for.
        divergence: from the unquantized file; None if nothing was verified, or for that file itself.
        limits: that it keeps.
        speed: on this machine's CPU with `Report.threads` threads; None if nothing was verified.
    """

    file_type: str
    names: list[str]
    size: int
    bits_per_weight: float
    ram: int | None
    sha256: list[str]
    divergence: Divergence | None
    limits: Limits | None
    speed: Speed | None


@dataclass(frozen=True)
class Report:
    """What there is to say about a conversion.

    Attributes:
        name: the model's.
        architecture: transformers' class.
        parameters: weights that the files hold.
        checkpoint_type: of the checkpoint's matrices.
        weights_sha256: the checkpoint's digest, as `weights_digest` defines it.
        tokenizer: llama.cpp's names of the tokenizer and the pre-tokenizer.
        proof: None with --no-verify.
        files: in the user's order.
        context: tokens that `FileReport.ram` is for.
        mixture: name of the mixture whose held-out conversations were read; None without one.
        imatrix: where the importance matrix comes from; None without one.
        notes: what a user must know.
        threads: CPU threads that were used.
    """

    name: str
    architecture: str
    parameters: int
    checkpoint_type: str
    weights_sha256: str
    tokenizer: str
    proof: Proof | None
    files: list[FileReport]
    context: int
    mixture: str | None = None
    imatrix: str | None = None
    notes: list[str] = field(default_factory=list)
    threads: int = 1


def as_json(report: Report) -> str:
    """The content of report.json."""
    proof = report.proof
    content = {
        "format": FORMAT,
        "name": report.name,
        "architecture": report.architecture,
        "parameters": report.parameters,
        "checkpoint": {"type": report.checkpoint_type, "weights_sha256": report.weights_sha256},
        "tokenizer": report.tokenizer,
        "verified": proof is not None,
        "transformers": proof
        and {
            "subject": proof.subject,
            "token_ids": {"texts": proof.texts, "of_the_mixture": proof.mixture_texts, "identical": True},
            "continuations": {"compared": proof.continuations, "identical": proof.same_continuations},
            **proof.divergence.as_json(),
            "limits": _limits(proof.limits),
        },
        "files": [
            {
                "type": file.file_type,
                "files": [{"name": name, "sha256": digest} for name, digest in _digests(file)],
                "bytes": file.size,
                "bits_per_weight": file.bits_per_weight,
                "ram_bytes": file.ram,
                "tokens_per_second": file.speed and {"prompt": file.speed.prompt, "answer": file.speed.answer},
                "against_unquantized": file.divergence
                and {**file.divergence.as_json(), "limits": _limits(file.limits)},
            }
            for file in report.files
        ],
        "ram_context_tokens": report.context,
        "mixture": report.mixture,
        "imatrix": report.imatrix,
        "notes": report.notes,
        "machine": {"system": platform.system(), "processor": platform.machine(), "threads": report.threads},
        "versions": versions(*_LIBRARIES),
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def as_markdown(report: Report, *, plot: str | None) -> str:
    """The content of report.md.

    Args:
        report: what to tell.
        plot: name of the picture beside it.
    """
    lines = [f"# How {_plain(report.name)} was checked", ""]
    if report.proof is None:
        lines += [
            "It was not: the conversion ran with `--no-verify`. The files say so in their metadata (`koala.verified`).",
            "",
        ]
    else:
        lines += [*_proof_lines(report.proof), ""]
    lines += ["## The files", "", *_file_table(report), ""]
    if report.proof is not None:
        lines += [_method(report), ""]
    if plot:
        lines += [f"![Size against mean KLD]({plot})", ""]
    if report.notes:
        lines += ["## Notes", "", *(f"- {note}" for note in report.notes), ""]
    lines += [
        "## What was converted",
        "",
        f"- {report.architecture}, {report.parameters:,} weights, {report.checkpoint_type}",
        f"- tokenizer: {report.tokenizer}",
        f"- sha256 of the checkpoint's weights (`koala.weights_sha256`): `{report.weights_sha256}`",
        *(f"- sha256 of `{name}`: `{digest}`" for file in report.files for name, digest in _digests(file) if digest),
        f"- {', '.join(f'{name} {version}' for name, version in versions(*_LIBRARIES).items())}; {platform.system()} "
        f"{platform.machine()}, {report.threads} threads",
        "",
    ]
    return "\n".join(lines)


def print_report(report: Report) -> None:
    """Print one table of the files on standard output."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title="GGUF files", box=box.SIMPLE_HEAD)
    table.add_column("file", overflow="fold")
    for heading in ("size", "bits/weight", "mean KLD", "p99 KLD", "top-1", "perplexity", "tokens/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for file in report.files:
        name = file.names[0] if len(file.names) == 1 else f"{file.names[0]} (first of {len(file.names)})"
        cells = (name, size_text(file.size), f"{file.bits_per_weight:.2f}", *_measured(file, report))
        table.add_row(*map(Text, cells))
    # Cut off in a pipe, a table would lose columns; there it gets the room that it needs.
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=120)
    console.print(table)
    if report.proof:
        console.print("\n".join(_proof_lines(report.proof)).replace("`", ""), markup=False)
        compared = "Quantized files are compared with the unquantized one. "
        measured = any(file.divergence for file in report.files)
        console.print(f"{compared if measured else ''}Details: report.md", markup=False)
    else:
        console.print("Not verified (--no-verify).", markup=False)


def size_text(size: float) -> str:
    """Bytes for people, in powers of ten."""
    for unit in ("B", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"


def _measured(file: FileReport, report: Report) -> Sequence[str]:
    """KLD, its percentile, top-1, perplexity and speed as text."""
    if file.speed is None:
        return ("not verified", "", "", "", "")
    speed = f"{file.speed.answer:.3g}"
    if file.divergence is None:
        known = report.proof.divergence.perplexity if report.proof else None
        return ("unquantized", "", "", f"{known:.4g}" if known else "–", speed)
    found = file.divergence
    perplexity = f"{found.perplexity:.4g}" if found.perplexity is not None else "–"
    return (f"{found.kld:.2g}", f"{found.kld_p99:.2g}", f"{found.top1:.1%}", perplexity, speed)


def _proof_lines(proof: Proof) -> list[str]:
    found = proof.divergence
    mixture = f" ({proof.mixture_texts} of them conversations of the mixture)" if proof.mixture_texts else ""
    return [
        f"The {proof.subject} is the model of the checkpoint: in llama.cpp it has transformers' token ids on all "
        f"{proof.texts} texts{mixture}, and over {found.positions:,} positions its logits differ from those of "
        f"transformers in float32 by {found.largest:.2g} at most and {found.mean:.2g} on average (relative to the "
        f"largest logit); first choices agree at {found.top1:.2%}, the mean KLD is {found.kld:.2g} nats (limit "
        f"{proof.limits.kld:g}), and {proof.same_continuations} of {proof.continuations} greedy continuations are the "
        "same to the last token."
    ]


def _file_table(report: Report) -> list[str]:
    lines = [
        f"| file | type | size | bits/weight | RAM at {report.context:,} tokens | mean KLD | 99% KLD | top-1 "
        "| perplexity | tokens/s (prompt) | tokens/s (answer) | verdict |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for file in report.files:
        kld, p99, top1, perplexity, answer = _measured(file, report)
        prompt = f"{file.speed.prompt:.3g}" if file.speed else ""
        verdict = "not verified"
        if file.limits is not None:
            verdict = f"within its limit ({file.limits.kld:g})"
        names = "<br>".join(f"`{name}`" for name in file.names)
        cells = [
            names,
            file.file_type,
            size_text(file.size),
            f"{file.bits_per_weight:.2f}",
            size_text(file.ram) if file.ram else "–",
        ]
        lines.append(f"| {' | '.join([*cells, kld, p99, top1, perplexity, prompt, answer, verdict])} |")
    return lines


def _method(report: Report) -> str:
    on = (
        f"held-out conversations of the mixture {_plain(report.mixture)} (answers' tokens) and the built-in prompts"
        if report.mixture
        else "the built-in prompts and their greedy continuations"
    )
    known = report.proof.divergence.perplexity if report.proof else None
    baseline = f" The unquantized file's perplexity is {known:.4g}." if known else ""
    matrix = f" Quantized with an importance matrix from {_plain(report.imatrix)}." if report.imatrix else ""
    return (
        f"KLD (nats), top-1 agreement and perplexity compare each file with the unquantized one in llama.cpp, on {on}."
        f"{baseline} Tokens per second are those of this machine's CPU with {report.threads} threads.{matrix}"
    )


def _digests(file: FileReport) -> list[tuple[str, str | None]]:
    return list(zip(file.names, file.sha256 or [None] * len(file.names), strict=True))


def _limits(limits: Limits) -> dict[str, float | None]:
    return {"kld": limits.kld, "tie": limits.tie, "largest": limits.largest}


def _plain(text: str | None) -> str:
    """A name in Markdown that is nothing but its letters."""
    return "".join(f"\\{letter}" if letter in r"\`*_{}[]<>#|" else letter for letter in text or "")
