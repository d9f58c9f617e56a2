"""The user's settings: a YAML file that is checked key by key, and that the app never writes.

Every mistake in it is one sentence with file, line and key. Relative paths in it count from its own folder.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from inference.errors import InputError
from inference.load_options import KV_TYPES, LoadOptions
from inference.sampling import Sampling

from . import paths

if TYPE_CHECKING:
    from yaml import MappingNode, Node


@dataclass(frozen=True)
class Preset:
    """Sampling settings that go together, by name; those it does not name stay as they are.

    `system`, where it is not None, takes the place of the system prompt.
    """

    sampling: Mapping[str, float] = field(default_factory=dict)
    system: str | None = None

    def apply(self, sampling: Sampling) -> Sampling:
        """Return `sampling` with this preset's settings in it."""
        return replace(sampling, **self.sampling)


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "balanced": Preset({"temperature": 0.7, "top_k": 40, "top_p": 0.95, "min_p": 0.05}),
        "precise": Preset({"temperature": 0.2, "top_k": 40, "top_p": 0.9, "min_p": 0.1}),
        "creative": Preset({"temperature": 1.1, "top_k": 0, "top_p": 1.0, "min_p": 0.05}),
        "greedy": Preset({"temperature": 0.0}),
    }
)


@dataclass(frozen=True)
class Config:
    """What the user has set.

    `model` is a path or the name of a model that is found, `endpoint` the URL of an OpenAI-compatible server and
    `endpoint_model` which of its models. `presets` holds the built-in ones and the user's. `keys` maps the name of a
    command to its key, or keys with commas between them. `folders` are looked through for models beside the usual
    places. Without `save_chats` no chat is written to disk. `theme` and `sidebar` are None where the user has not set
    them, so that what was last chosen in the app holds.
    """

    model: str | None = None
    endpoint: str | None = None
    endpoint_model: str | None = None
    system: str | None = None
    sampling: Sampling = field(default_factory=Sampling)
    load: LoadOptions = field(default_factory=LoadOptions)
    presets: Mapping[str, Preset] = field(default_factory=lambda: PRESETS)
    theme: str | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    folders: tuple[Path, ...] = ()
    sidebar: bool | None = None
    mouse: bool = True
    save_chats: bool = True


def load_config(file: Path) -> Config:
    """Return the settings in the YAML file.

    Raises:
        InputError: the file cannot be read, is no YAML, or a key or value in it is not what the app knows.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"the settings in {file} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"the settings in {file} are not UTF-8 text; save the file again as UTF-8") from error
    import yaml

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or "it cannot be read"
        where = f"{file}, line {mark.line + 1}" if mark else str(file)
        raise InputError(f"{where}: this is not YAML: {problem}") from None
    except RecursionError:
        raise InputError(f"{file}: it is nested too deeply") from None
    if root is None:
        return Config()
    return Config(**_Reader(file).mapping(root, "", KEYS))


class _Reader:
    """Turns YAML nodes into values, and every mistake into a sentence that says where it is."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def error(self, node: "Node", key: str, problem: str) -> InputError:
        where = f"{key}: " if key else ""
        return InputError(f"{self.file}, line {node.start_mark.line + 1}: {where}{problem}")

    def pairs(self, node: "Node", key: str) -> "list[tuple[Node, str, Node]]":
        import yaml

        if self.scalar(node) is None:
            return []
        if not isinstance(node, yaml.MappingNode):
            raise self.error(node, key, "this needs lines of the form NAME: VALUE")
        found: dict[str, tuple[Node, str, Node]] = {}
        for name_node, value in node.value:
            name = name_node.value if isinstance(name_node, yaml.ScalarNode) else ""
            if not name:
                raise self.error(name_node, key, "a key must be a plain word")
            if name in found:
                raise self.error(name_node, _join(key, name), "this is set twice")
            found[name] = (name_node, name, value)
        return list(found.values())

    def mapping(self, node: "MappingNode", key: str, known: "Mapping[str, _Read]") -> dict[str, Any]:
        """Return the values of a mapping; a key without a value is as if it were not there."""
        values: dict[str, Any] = {}
        for name_node, name, value in self.pairs(node, key):
            if name not in known:
                raise self.error(name_node, _join(key, name), f"there is no such setting; {_suggest(name, known)}")
            if self.scalar(value) is not None:
                values[name] = known[name](self, value, _join(key, name))
        return values

    def scalar(self, node: "Node") -> Any:
        """Return the value of a scalar, None for null, and the node itself where it is something larger."""
        import yaml

        if not isinstance(node, yaml.ScalarNode):
            return node
        try:
            return yaml.SafeLoader("").construct_object(node)
        except (yaml.YAMLError, ValueError):
            return node


_Read = Callable[[_Reader, "Node", str], Any]


def _text(reader: _Reader, node: "Node", key: str) -> str:
    value = reader.scalar(node)
    if not isinstance(value, str):
        raise reader.error(node, key, f"this needs a text{_quote_hint(value)}")
    return value


def _flag(reader: _Reader, node: "Node", key: str) -> bool:
    value = reader.scalar(node)
    if not isinstance(value, bool):
        raise reader.error(node, key, f"this needs true or false{_said(value)}")
    return value


def _number(reader: _Reader, node: "Node", key: str) -> float:
    value = reader.scalar(node)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise reader.error(node, key, f"this needs a number{_said(value)}")
    return value


def _whole(reader: _Reader, node: "Node", key: str) -> int:
    value = reader.scalar(node)
    if isinstance(value, bool) or not isinstance(value, int):
        raise reader.error(node, key, f"this needs a whole number{_said(value)}")
    return value


def _automatic(read: _Read) -> _Read:
    """Return a reader that also takes "auto", which is None."""
    return lambda reader, node, key: None if reader.scalar(node) == "auto" else read(reader, node, key)


def _path(reader: _Reader, node: "Node", key: str) -> Path:
    return reader.file.parent / os.path.expanduser(_text(reader, node, key))  # noqa: PTH111 (never raises)


def _path_or_name(reader: _Reader, node: "Node", key: str) -> str:
    text = _text(reader, node, key)
    is_path = "/" in text or "\\" in text or text.startswith("~") or text.lower().endswith((".gguf", ".jinja"))
    return str(_path(reader, node, key)) if is_path else text


def _paths(reader: _Reader, node: "Node", key: str) -> tuple[Path, ...]:
    import yaml

    if not isinstance(node, yaml.SequenceNode):
        raise reader.error(node, key, "this needs a list, one path a line after a dash")
    return tuple(_path(reader, item, key) for item in node.value)


def _texts_by_name(reader: _Reader, node: "Node", key: str) -> dict[str, str]:
    return {name: _text(reader, value, _join(key, name)) for _, name, value in reader.pairs(node, key)}


def _checked(reader: _Reader, node: "Node", key: str, known: Mapping[str, _Read], make: Callable[..., Any]) -> dict:
    """Return the values of a mapping that `make` takes, each by itself, so that a refusal has its line."""
    values = reader.mapping(node, key, known)
    for _, name, value in reader.pairs(node, key):
        try:
            make(**{name: values[name]} if name in values else {})
        except InputError as error:
            raise reader.error(value, key, str(error)) from None
    return values


def _sampling(reader: _Reader, node: "Node", key: str) -> Sampling:
    return Sampling(**_checked(reader, node, key, SAMPLING_KEYS, Sampling))


def _load(reader: _Reader, node: "Node", key: str) -> LoadOptions:
    return LoadOptions(**_checked(reader, node, key, LOAD_KEYS, LoadOptions))


def _preset(reader: _Reader, node: "Node", key: str) -> Preset:
    def check(system: str | None = None, **sampling: Any) -> None:
        Sampling(**sampling)

    values = _checked(reader, node, key, SAMPLING_KEYS | {"system": _text}, check)
    return Preset(system=values.pop("system", None), sampling=values)


def _presets(reader: _Reader, node: "Node", key: str) -> Mapping[str, Preset]:
    found = {name: _preset(reader, value, _join(key, name)) for _, name, value in reader.pairs(node, key)}
    return MappingProxyType({**PRESETS, **found})


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _said(value: Any) -> str:
    return f", not {value!r}" if isinstance(value, (str, int, float, bool)) else ""


def _quote_hint(value: Any) -> str:
    return f"; write it in quotes: '{value}'" if isinstance(value, (bool, int, float)) else ""


def _suggest(name: str, known: Mapping[str, Any]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"


SAMPLING_KEYS: dict[str, _Read] = {
    setting.name: _whole if "int" in str(setting.type) else _number for setting in fields(Sampling)
}
LOAD_KEYS: dict[str, _Read] = {
    "n_ctx": _automatic(_whole),
    "n_threads": _automatic(_whole),
    "n_gpu_layers": _automatic(_whole),
    "kv_type": _automatic(_text),
    "flash_attention": _automatic(_flag),
    "mmap": _automatic(_flag),
    "template": _automatic(_path_or_name),
    "cache_dir": _automatic(lambda reader, node, key: str(_path(reader, node, key))),
    "cache_bytes": _whole,
    "force": _flag,
}
KEYS: dict[str, _Read] = {
    "model": _path_or_name,
    "endpoint": _text,
    "endpoint_model": _text,
    "system": _text,
    "sampling": _sampling,
    "load": _load,
    "presets": _presets,
    "theme": _text,
    "keys": _texts_by_name,
    "folders": _paths,
    "sidebar": _flag,
    "mouse": _flag,
    "save_chats": _flag,
}


def default_config() -> str:
    """Return a config file with every setting, its default and what it does, all of it commented out."""
    return _TEMPLATE.format(
        file=paths.config_file(),
        models=paths.models_folder(),
        cache=paths.sequences_folder(),
        kv_types=", ".join(KV_TYPES),
        presets="\n".join(
            f"#  {name}: {{{', '.join(f'{key}: {value}' for key, value in preset.sampling.items())}}}"
            for name, preset in PRESETS.items()
        ),
        **vars(Sampling()),
        cache_bytes=LoadOptions.cache_bytes,
    )


_TEMPLATE = """\
# The settings of koala-tui. It reads {file}, or the file of --config, and never writes it.
# What is commented out here holds anyway: take away the # of a setting, and of those above it, to change it. Flags win
# over this file. Relative paths count from its folder.

# The model when none is named: a GGUF file, or a name that koala-tui --list shows. Without it, the one used last.
#model:

# An OpenAI-compatible server (llama-server, vLLM, Ollama, …) when no model is named, and which of its models.
#endpoint:
#endpoint_model:

# What a model is told before a conversation.
#system:

# How the next token is chosen. temperature 0 is greedy; top_k 0, top_p 1, min_p 0 and repeat_penalty 1 do nothing.
# Without a seed each reply draws one, and keeps it.
#sampling:
#  temperature: {temperature}
#  top_k: {top_k}
#  top_p: {top_p}
#  min_p: {min_p}
#  repeat_penalty: {repeat_penalty}
#  max_tokens: {max_tokens}
#  seed:

# Settings that go together, for --preset NAME and for a chat. Yours come beside these. What one does not name stays as
# it is; it may have a system prompt, too (system: …).
#presets:
{presets}

# How a model is loaded; auto leaves the choice to the machine.
#load:
# The size of the context in tokens, the threads, the layers on the GPU (-1 is all of them).
#  n_ctx: auto
#  n_threads: auto
#  n_gpu_layers: auto
# The type of the KV cache: {kv_types}.
#  kv_type: auto
#  flash_attention: auto
#  mmap: auto
# A built-in prompt format or a Jinja file, in place of the model's own.
#  template: auto
# Where conversations are kept as the model reads them, so that a long chat goes on at once after a restart, and how
# many bytes that may take; 0 switches it off. auto is {cache}.
#  cache_dir: auto
#  cache_bytes: {cache_bytes}
# Load a model although the memory is too small for it.
#  force: false

# Where else models are looked for, with the folders in these. {models} and the usual places are looked through anyway.
#folders: []

# The look. What is not set here is as it was left.
#theme:
#sidebar:
#mouse: true

# The keys of commands (/help in the app has their names), as in: new: ctrl+t. Several have commas between them.
#keys: {{}}

# Whether chats are kept on disk.
#save_chats: true
"""
