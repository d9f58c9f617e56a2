"""What a start of koala-tui comes to: the defaults, the config file, a preset and the flags, the later ones winning."""

import argparse
import os
from dataclasses import dataclass, replace
from pathlib import Path

from inference.errors import InputError
from inference.gguf_header import MAGIC, read_header
from inference.load_options import LoadOptions
from inference.sampling import Sampling

from . import paths, state
from .config import Config, load_config
from .model_host import Endpoint, Target
from .presets import all_presets


@dataclass(frozen=True)
class Start:
    """How to talk, and with whom; `target` is None where nobody has said."""

    config: Config
    target: Target | None
    load: LoadOptions
    sampling: Sampling
    system: str | None
    preset: str | None


def read_config(arguments: argparse.Namespace) -> Config:
    """Return the settings in the file of --config, or those in the usual place, where a file need not be.

    Raises:
        InputError: the file cannot be read, or holds something that cannot be used.
    """
    file = config_file(arguments)
    return load_config(file) if arguments.config is not None or file.exists() else Config()


def config_file(arguments: argparse.Namespace) -> Path:
    """Return the file with the settings, which need not be there."""
    return Path(arguments.config).expanduser() if arguments.config is not None else paths.config_file()


def prepare(arguments: argparse.Namespace) -> Start:
    """Return what the command line and the settings come to.

    Raises:
        InputError: a file, a name or a value among them cannot be used.
    """
    config = read_config(arguments)
    sampling, system = config.sampling, config.system
    if arguments.preset is not None:
        presets = all_presets(config.presets)
        if arguments.preset not in presets:
            raise InputError(f"there is no preset {arguments.preset!r}; there are {', '.join(presets)}")
        preset = presets[arguments.preset]
        sampling = preset.apply(sampling)
        system = preset.system if preset.system is not None else system
    sampling, load = sampling.with_settings(arguments.settings), _load_options(arguments, config)
    return Start(
        config=config,
        target=_target(arguments, config),
        load=load,
        sampling=sampling,
        system=(arguments.system if arguments.system is not None else system) or None,
        preset=arguments.preset,
    )


def _load_options(arguments: argparse.Namespace, config: Config) -> LoadOptions:
    options = config.load
    leaves_traces = config.save_chats and not arguments.no_save and arguments.prompt is None
    if not leaves_traces:
        options = replace(options, cache_dir=None)
    elif options.cache_dir is None:
        options = replace(options, cache_dir=str(paths.sequences_folder()))
    options = options.with_settings(arguments.load)
    flags = {
        "n_ctx": arguments.context,
        "n_threads": arguments.threads,
        "n_gpu_layers": arguments.gpu_layers,
        "template": arguments.template,
    }
    return replace(options, **{name: value for name, value in flags.items() if value is not None})


def _target(arguments: argparse.Namespace, config: Config) -> Target | None:
    if arguments.endpoint is not None:
        if arguments.model is not None:
            raise InputError("MODEL and --endpoint exclude each other; --endpoint-model names a server's model")
        return Endpoint(arguments.endpoint, arguments.endpoint_model)
    if arguments.model is not None:
        return find_model(arguments.model, config)
    if config.model is not None:
        return find_model(config.model, config)
    if config.endpoint is not None:
        return Endpoint(config.endpoint, arguments.endpoint_model or config.endpoint_model)
    last = state.recall().get("last_model")
    if isinstance(last, str) and Path(last).is_file():
        return Path(last)
    return None


def find_model(named: str, config: Config) -> Path:
    """Return the file of the model with this path or name.

    Raises:
        InputError: there is no such file or name, or the first bytes of the file say that it is no GGUF. The rest of it
            is left to whoever loads it: it would hold up the first screen.
    """
    path = Path(named).expanduser()
    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) == MAGIC:
                return path
    except OSError:
        if _is_name(named) and not path.exists():
            from .model_names import find_by_name

            return find_by_name(named, [paths.models_folder(), *config.folders])
    read_header(path)  # which says what is wrong with it
    return path


def _is_name(named: str) -> bool:
    return not named.lower().endswith(".gguf") and not named.startswith(("~", ".", "/", os.sep))
