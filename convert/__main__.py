"""`python -m convert MODEL --out DIR`: the command line of the conversion."""

import argparse
import os
import signal
import sys
from pathlib import Path

from datasets_cfg.errors import exit_code, visible

from .verdict import VerificationFailed

_DESCRIPTION = """\
Turn a Hugging Face checkpoint or a PEFT adapter into GGUF files for llama.cpp. Each file is checked against the
checkpoint (token ids, logits, greedy continuations) before it gets its name, DIR/NAME-TYPE.gguf; the proof stands
beside it. `python -m convert diff --help`: release weights as a difference from their base."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit code: 0, 1 (a file failed its verification), 2 (bad input), 130 (Ctrl+C)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["diff"]:
        from .diff.command import main as diff

        return diff(arguments[1:])
    options = _parser().parse_args(arguments)
    try:
        return exit_code(lambda: _convert(options), debug=options.debug)
    except VerificationFailed as failure:
        if options.debug:
            raise
        print(f"error: {visible(str(failure))}", file=sys.stderr)
        return 1


def _convert(options: argparse.Namespace) -> None:
    from .adapter_conversion import convert_adapter
    from .conversion import convert
    from .options import Options
    from .split import parse_size

    run = convert_adapter if options.adapter_only else convert
    run(
        Options(
            model=options.model,
            out=options.out,
            types=tuple(options.quantize),
            ram=parse_size(options.ram, option="--ram") if options.ram else None,
            base=options.base,
            revision=options.revision,
            name=options.name,
            mixture=options.mixture,
            imatrix=options.imatrix,
            imatrix_tokens=options.imatrix_tokens,
            split_max_size=parse_size(options.split_max_size) if options.split_max_size else None,
            overwrite=options.overwrite,
            verify=not options.no_verify,
            threads=options.threads,
            quiet=options.quiet,
        )
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m convert", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a Hugging Face folder (config.json, safetensors, tokenizer.json), a PEFT adapter's folder, or a hub id",
    )
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the files; new or empty")
    parser.add_argument(
        "--quantize",
        metavar="TYPE",
        nargs="+",
        default=[],
        help="one file for each type: F32, BF16, F16, any of llama.cpp's quantizer, or `auto` (default: Q8_0; of an "
        "adapter alone: F32)",
    )
    parser.add_argument(
        "--ram", metavar="SIZE", help="with `auto`: the RAM of the machine that the model is for, such as 8G"
    )
    parser.add_argument("--name", help="what the files begin with (default: the name of the model)")
    parser.add_argument("--base", metavar="MODEL", help="an adapter's base: folder or hub id (default: as it says)")
    parser.add_argument(
        "--adapter-only", action="store_true", help="write the adapter alone, for llama.cpp's --lora; nothing is merged"
    )
    parser.add_argument("--revision", help="branch, tag or commit of a hub id (default: main)")
    parser.add_argument(
        "--imatrix",
        metavar="WHAT",
        type=Path,
        help="quantize with an importance matrix, computed on a mixture's training conversations (folder) or on a text "
        "file, or read from llama.cpp's file of one (.gguf, .dat)",
    )
    parser.add_argument(
        "--imatrix-tokens",
        metavar="N",
        type=_positive,
        default=50_000,
        help="tokens that it is computed on at most (default: %(default)s)",
    )
    parser.add_argument(
        "--mixture",
        metavar="DIR",
        type=Path,
        help="measure the files on this mixture's held-out conversations (default: the one of --imatrix, if any)",
    )
    parser.add_argument(
        "--split-max-size", metavar="SIZE", help="split larger files, such as 2G; llama.cpp opens the first part"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files of the same name in DIR; others stay")
    parser.add_argument("--no-verify", action="store_true", help="skip the checks; the files say so")
    parser.add_argument(
        "--threads",
        metavar="N",
        type=_positive,
        default=_usable_cores(),
        help="CPU threads (default: the cores that this process may use, here %(default)s)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress and no summary, only errors")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of 1 or more")
    return number


def _usable_cores() -> int:
    # Not every system knows affinity; where it does, the count respects containers' and users' limits.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    # A terminated run cleans up as an interrupted one does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
