"""`python -m convert diff make|apply`: the command line of weight diffs."""

import argparse
import sys
from pathlib import Path

from datasets_cfg.errors import exit_code, visible

_DESCRIPTION = """\
Publish a tuned model as its difference to the base, which is worth nothing without the base; and get the model back, to
the bit. Both check what they read, and say so if it is another base."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit code: 0, 2 (bad input), 130 (Ctrl+C)."""
    options = _parser().parse_args(arguments)
    return exit_code(lambda: options.command(options), debug=options.debug)


def _make(options: argparse.Namespace) -> None:
    from ..hub import local_folder
    from .make_apply import make_diff

    record, left_out = make_diff(
        local_folder(options.base, quiet=options.quiet),
        options.tuned,
        options.out,
        base_name=None if Path(options.base).exists() else options.base,
        compress=options.compress,
        overwrite=options.overwrite,
        quiet=options.quiet,
    )
    if options.quiet:
        return
    sums = record.checksums()
    size = sum((options.out / shard.diff).stat().st_size for shard in record.shards)
    of = sum(shard.layout.file_size for shard in record.shards)
    print(f"{options.out}: {size / 1e9:,.3f} GB, the model's weights are {of / 1e9:,.3f} GB")
    print(f"base   {sums['base']}  {record.base_name}\ndiff   {sums['diff']}\nresult {sums['result']}")
    for what, names in (
        ("not in the base, so they are in the diff as they are", sorted(set(record.result) - set(record.base))),
        ("only in the base", sorted(set(record.base) - set(record.result))),
        ("left out, since they do not belong to a published model", left_out),
    ):
        if names:
            print(visible(f"{what}: {', '.join(names)}"))


def _apply(options: argparse.Namespace) -> None:
    from ..hub import local_folder
    from .make_apply import apply_diff

    base = local_folder(options.base, quiet=options.quiet)
    record = apply_diff(base, options.diff, options.out, overwrite=options.overwrite, quiet=options.quiet)
    if not options.quiet:
        print(f"{options.out}: the weights are those of the tuned model\nresult {record.checksums()['result']}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m convert diff", description=_DESCRIPTION)
    commands = parser.add_subparsers(metavar="make|apply", required=True)
    make = commands.add_parser("make", help="from a base and a tuned model to a diff")
    apply = commands.add_parser("apply", help="from a base and a diff to the tuned model")
    for command, run in ((make, _make), (apply, _apply)):
        command.set_defaults(command=run)
        command.add_argument("--base", metavar="MODEL", required=True, help="folder or hub id of the base")
    make.add_argument("--tuned", metavar="DIR", type=Path, required=True, help="the folder of the tuned model")
    apply.add_argument("--diff", metavar="DIR", type=Path, required=True, help="the folder that `make` wrote")
    make.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the diff; new or empty")
    apply.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the model; new or empty")
    make.add_argument(
        "--compress", action="store_true", help="smaller (bfloat16: a half to a third) and slower; needs only Koala"
    )
    for command in (make, apply):
        command.add_argument("--overwrite", action="store_true", help="replace the folder if it is there")
        command.add_argument("--quiet", action="store_true", help="no progress and no summary, only errors")
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


if __name__ == "__main__":
    sys.exit(main())
