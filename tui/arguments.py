"""The command line of koala-tui: every flag, its help, and what completes it."""

import argparse
import re
from collections.abc import Iterable

from inference.builtin_templates import BUILTIN
from inference.sampling import Sampling

from .completion import SHELLS, Values
from .config import LOAD_KEYS, PRESETS, SAMPLING_KEYS

USAGE = "koala-tui [MODEL] [options]"
EPILOG = """\
examples:
  koala-tui model.gguf
  koala-tui model.gguf --prompt "Who are you?" --set temperature=0
  git diff | koala-tui model.gguf -p "Review this change."
  koala-tui --endpoint http://localhost:8080/v1

Exit codes: 0; 1 the model or the disk failed; 2 the input cannot be used; 130 Ctrl+C. Everything else: docs/tui.md.
"""
SAMPLING = ", ".join(f"{name}={value}" for name, value in vars(Sampling()).items() if value is not None)
FORMS = ("markdown", "jsonl", "sharegpt", "sharegpt-branches")  # tui.exchange has the same


def build_parser(presets: Iterable[str] = PRESETS) -> argparse.ArgumentParser:
    """Return the parser of the command line; what completes its arguments stands in their `complete`."""
    parser = argparse.ArgumentParser(
        prog="koala-tui",
        usage=USAGE,
        description="Chat with a GGUF model in the terminal. Nothing leaves this machine.",
        epilog=EPILOG,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=30),
        add_help=False,
        allow_abbrev=False,
    )
    model = parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="a GGUF file, or the name of one that --list shows; without it, the one used last",
    )
    model.complete = Values(files=True, suffixes=(".gguf",))

    does = parser.add_argument_group("instead of opening the app")
    one = does.add_mutually_exclusive_group()
    one.add_argument("-p", "--prompt", metavar="TEXT", help="print the answer to TEXT and piped text; - is stdin alone")
    one.add_argument("--plain", action="store_true", help="chat line by line: for screen readers and simple terminals")
    one.add_argument("--list", action="store_true", help="show the models on this machine")
    one.add_argument(
        "--pull",
        metavar="REPO [FILE]",  # FILE is what MODEL is elsewhere
        help="download a model from the Hugging Face Hub; FILE may be a quantization such as Q4_K_M",
    )
    export = one.add_argument(
        "--export",
        nargs=2,
        metavar=("FORM", "FILE"),
        help=f"write all chats, or that of --chat, as {', '.join(FORMS)}; FILE - is stdout",
    )
    export.complete = [Values(FORMS), Values(files=True)]
    imported = one.add_argument(
        "--import", metavar="FILE", dest="import_file", help="read chats from an export of this app or of ChatGPT"
    )
    imported.complete = Values(files=True)
    one.add_argument("--print-config", action="store_true", help="print a config file with every setting explained")
    one.add_argument("--completion", choices=SHELLS, metavar="SHELL", help=f"print a script for {', '.join(SHELLS)}")
    one.add_argument("--version", action="store_true", help="show the version and exit")
    does.add_argument("-h", "--help", action="help", help="show this and exit")
    does.add_argument(
        "--json",
        action="store_true",
        help="with --prompt: print one JSON object with all there is to know; with --list: one a line",
    )

    answer = parser.add_argument_group("the answer")
    answer.add_argument("--system", metavar="TEXT", help="what the model is told before the conversation")
    settings = answer.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], dest="settings",
        help=f"how tokens are chosen, repeatable: {SAMPLING}, seed random. temperature=0 is greedy",
    )  # fmt: skip
    preset = answer.add_argument(
        "--preset", metavar="NAME", help=f"settings to go with: {', '.join(PRESETS)}, or yours"
    )

    runs = parser.add_argument_group("the model")
    runs.add_argument(
        "--endpoint", metavar="URL", help="ask an OpenAI-compatible server instead (llama-server, vLLM, …)"
    )
    runs.add_argument("--endpoint-model", metavar="NAME", help="which of the server's models")
    runs.add_argument("--context", type=_positive, metavar="N", help="size of the context in tokens")
    runs.add_argument("--threads", type=_positive, metavar="N", help="number of threads (all usable cores)")
    runs.add_argument("--gpu-layers", type=_layers, metavar="N", help="layers on the GPU; -1 is all of them")
    template = runs.add_argument("--template", metavar="NAME", help=f"{', '.join(BUILTIN)}, or a Jinja file")
    load = runs.add_argument(
        "--load", metavar="KEY=VALUE", action="append", default=[], help=f"repeatable: {', '.join(LOAD_KEYS)}"
    )

    chats = parser.add_argument_group("chats")
    chats.add_argument("--continue", action="store_true", dest="go_on", help="open the chat used last")
    chats.add_argument(
        "--chat", type=_positive, nargs="?", const=0, metavar="N", help="open the chat of this number; without N, list"
    )
    store = chats.add_argument("--store", metavar="FILE", help="keep the chats in this file")
    chats.add_argument("--no-save", action="store_true", help="keep this time's chats in memory alone")
    config = chats.add_argument("--config", metavar="FILE", help="read the settings from this file")
    chats.add_argument("--debug", action="store_true", help="show the traceback of an error")

    settings.complete = Values([f"{name}=" for name in SAMPLING_KEYS])
    load.complete = Values([f"{name}=" for name in LOAD_KEYS])
    preset.complete = Values([name for name in presets if re.fullmatch(r"[\w.-]+", name)])
    template.complete = Values(tuple(BUILTIN), files=True, suffixes=(".jinja",))
    for action in (store, config):
        action.complete = Values(files=True)
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _layers(text: str) -> int:
    if not re.fullmatch(r"-1|\d{1,6}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of layers, nor -1 for all")
    return int(text)
