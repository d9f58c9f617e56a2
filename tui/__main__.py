"""The command `koala-tui`: a chat in the terminal, or with --prompt one answer on stdout."""

import argparse
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.errors import EngineError, InputError

from .arguments import build_parser
from .text import harmless

if TYPE_CHECKING:
    from .config import Config
    from .store import Store

NO_MODEL = "no model was named; give a GGUF file, or a name that koala-tui --list shows"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 1 where the engine failed, 2 for bad input, 130 for Ctrl+C."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # not every terminal has every character
    parser = build_parser()
    arguments = parser.parse_args(argv)
    _refuse_combinations(parser, arguments)
    try:
        code = _run_and_report(arguments)
        sys.stdout.flush()
    except OSError as error:
        if arguments.debug:
            raise
        if not isinstance(error, BrokenPipeError):  # that is a reader, such as `head`, that has seen enough
            print(f"error: {harmless(str(error))}", file=sys.stderr)
        # Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _run_and_report(arguments: argparse.Namespace) -> int:
    report: dict[str, Any] = {}
    try:
        code = _run(arguments, report)
    except EngineError as error:
        if arguments.debug:
            raise
        print(f"error: {harmless(str(error))}", file=sys.stderr)
        report["error"] = str(error)
        code = 2 if isinstance(error, InputError) else 1
    except KeyboardInterrupt:
        report["error"], code = "interrupted", 130
    if arguments.json and not arguments.list:
        print(json.dumps(report | {"exit_code": code}))
    return code


def _refuse_combinations(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    if arguments.json and arguments.prompt is None and not arguments.list:
        parser.error("--json needs --prompt or --list")
    if arguments.prompt is not None and (arguments.go_on or arguments.chat is not None):
        parser.error("--prompt asks outside of any chat, so it goes with neither --continue nor --chat")
    if arguments.go_on and arguments.chat is not None:
        parser.error("--continue and --chat exclude each other")
    if arguments.no_save and arguments.store is not None:
        parser.error("--no-save and --store exclude each other")
    if arguments.endpoint_model is not None and arguments.model is not None:
        parser.error("--endpoint-model goes with --endpoint, not with MODEL")


def _run(arguments: argparse.Namespace, report: dict[str, Any]) -> int:
    if arguments.version:
        print(f"koala-tui {_version()}")
    elif arguments.print_config:
        from .config import default_config

        print(default_config(), end="")
    elif arguments.completion is not None:
        from . import completion
        from .start import read_config

        print(completion.script(arguments.completion, build_parser(read_config(arguments).presets)), end="")
    elif arguments.list:
        from .model_list import list_models
        from .start import read_config

        return list_models(sys.stdout, sys.stderr, arguments.json, read_config(arguments).folders)
    elif arguments.pull is not None:
        from .pull import pull

        return pull(arguments.pull, arguments.model, sys.stdout, sys.stderr)
    elif arguments.export is not None or arguments.import_file is not None or arguments.chat == 0:
        _tend_chats(arguments)
    elif arguments.prompt is not None:
        return _answer_once(arguments, report)
    elif arguments.plain:
        return _chat_by_lines(arguments)
    else:
        return _open_app(arguments)
    return 0


def _answer_once(arguments: argparse.Namespace, report: dict[str, Any]) -> int:
    import asyncio
    from functools import partial

    from .model_host import start_engine
    from .one_shot import answer, prompt_text
    from .start import prepare

    start = prepare(arguments)
    if start.target is None:
        raise InputError(NO_MODEL)
    messages = [{"role": "system", "content": start.system}] if start.system else []
    messages.append({"role": "user", "content": prompt_text(arguments.prompt)})
    engine = partial(start_engine, start.target, start.load)
    out = None if arguments.json else sys.stdout
    asyncio.run(answer(engine, messages, start.sampling, out=out, err=sys.stderr, report=report))
    return 0


def _tend_chats(arguments: argparse.Namespace) -> None:
    from . import archive
    from .start import read_config

    with _store(arguments, read_config(arguments)) as store:
        if arguments.export is not None:
            archive.export(store, arguments.chat or None, *arguments.export, sys.stdout, sys.stderr)
        elif arguments.import_file is not None:
            archive.read_in(store, Path(arguments.import_file).expanduser(), sys.stderr)
        else:
            archive.list_chats(store, sys.stdout, sys.stderr)


def _chat_by_lines(arguments: argparse.Namespace) -> int:
    from .chat_settings import ChatSettings
    from .keeper import Keeper
    from .model_host import ModelHost, start_engine
    from .plain import chat_by_lines
    from .presets import all_presets
    from .start import prepare

    start = prepare(arguments)
    if start.target is None:
        raise InputError(NO_MODEL)
    with _store(arguments, start.config) as store:
        host = ModelHost(start_engine, start.target, start.load)
        settings = ChatSettings(start.sampling, start.system, start.preset)
        presets = all_presets(start.config.presets)
        return chat_by_lines(host, Keeper(store), settings, presets, chat_id=_chat_number(arguments, store))


@contextmanager
def _store(arguments: argparse.Namespace, config: "Config") -> "Iterator[Store]":
    """Open the chats, and turn what they say of trouble into errors of the command."""
    from . import paths
    from .store import Store, StoreError

    keep = config.save_chats and not arguments.no_save
    file = Path(arguments.store).expanduser() if arguments.store is not None else paths.store_file()
    try:
        with closing(Store.open(file if keep else None)) as store:
            yield store
    except StoreError as error:
        raise EngineError(str(error)) from error


def _chat_number(arguments: argparse.Namespace, store: "Store") -> int | None:
    """Return the number of the chat to open, None for a new one."""
    from .store import StoreError

    if arguments.go_on:
        latest = max(store.chats(), key=lambda chat: chat.updated, default=None)
        return latest.id if latest is not None else None
    if arguments.chat is not None:
        try:
            store.chat(arguments.chat)
        except StoreError as error:
            raise InputError(f"{error}; koala-tui --chat lists them") from error
    return arguments.chat


def _open_app(arguments: argparse.Namespace) -> int:
    from .start import config_file, prepare

    start = prepare(arguments)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise InputError("the app needs a terminal; --prompt TEXT gets one answer on stdout, --plain chats by lines")
    with _store(arguments, start.config) as store:
        from .app import KoalaApp

        try:
            app = KoalaApp(
                store=store,
                config=start.config,
                target=start.target,
                load=start.load,
                sampling=start.sampling,
                system=start.system,
                preset=start.preset,
                chat_id=_chat_number(arguments, store),
            )
        except InputError as error:
            raise InputError(f"{config_file(arguments)}: {error}") from error
        return app.run(mouse=start.config.mouse) or 0


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("koala")
    except PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
