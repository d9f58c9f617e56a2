"""Scripts that make bash, zsh and fish complete the command line, generated from its argparse parser.

An argument says what its values are by the attribute `complete`, a `Values`; `choices` are taken as they are.
"""

import argparse
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

SHELLS = ("bash", "zsh", "fish")


@dataclass(frozen=True)
class Values:
    """What may follow an option: fixed words, and with `files` files whose name ends in one of `suffixes`, or any.

    A word that ends in "=" is to be written on.
    """

    words: Sequence[str] = ()
    files: bool = False
    suffixes: Sequence[str] = ()


def script(shell: str, parser: argparse.ArgumentParser) -> str:
    """Return the completion script of the parser's command for the shell, one of `SHELLS`."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](parser)


def _values(action: argparse.Action) -> list[Values]:
    """Return what each of the action's arguments may be, in their order; for a flag, nothing."""
    if action.nargs == 0:
        return []
    given = getattr(action, "complete", None) or Values(tuple(action.choices or ()))
    return list(given) if isinstance(given, (list, tuple)) else [given]


def _options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in parser._actions if action.option_strings and action.help != argparse.SUPPRESS]


def _positional(parser: argparse.ArgumentParser) -> Values:
    actions = [action for action in parser._actions if not action.option_strings]
    return _values(actions[0])[0] if actions else Values()


def _function(parser: argparse.ArgumentParser) -> str:
    return "_" + re.sub(r"\W", "_", parser.prog)


# ---- bash

_BASH = """\
# bash completion for {prog}; put it in effect with: eval "$({prog} --completion bash)"
{function}_files() {{
    local name suffix
    while read -r name; do
        [[ -d $name ]] && COMPREPLY+=("$name/") && continue
        for suffix in "$@"; do
            [[ $name == *"$suffix" ]] && COMPREPLY+=("$name") && break
        done
    done < <(compgen -f -- "$cur")
    compopt -o filenames 2>/dev/null
    [[ ${{COMPREPLY[0]}} == */ ]] && compopt -o nospace 2>/dev/null
}}
{function}_words() {{
    COMPREPLY+=($(compgen -W "$1" -- "$cur"))
    [[ ${{COMPREPLY[0]}} == *= ]] && compopt -o nospace 2>/dev/null
}}
{function}() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} option="" place=0 index
    COMPREPLY=()
    # Which option the word belongs to, and whether it is its first argument or its second. Readline takes "=" for a
    # word of its own.
    for ((index = COMP_CWORD - 1; index > 0; index--)); do
        if [[ ${{COMP_WORDS[index]}} == -?* ]]; then
            option=${{COMP_WORDS[index]}} place=$((COMP_CWORD - index))
            [[ ${{COMP_WORDS[index + 1]}} == "=" ]] && ((place -= 1))
            break
        fi
    done
    [[ $cur == "=" ]] && cur="" && ((place += 1))
    if [[ ${{COMP_WORDS[COMP_CWORD]}} == "=" || ${{COMP_WORDS[COMP_CWORD - 1]}} == "=" ]]; then
        [[ $option == --* && $place -eq 1 ]] || return
    fi
    case $option:$place in
{cases}
    esac
    if [[ $cur == -* ]]; then
        {function}_words "{flags}"
    else
{positional}
    fi
}}
complete -F {function} {prog}
"""


def _bash(parser: argparse.ArgumentParser) -> str:
    function = _function(parser)
    cases = []
    for action in _options(parser):
        for place, values in enumerate(_values(action), 1):
            pattern = "|".join(f"{option}:{place}" for option in action.option_strings)
            body = _bash_values(function, values) or ":"
            cases.append(f"        {pattern}) {body}; return ;;")
    return _BASH.format(
        prog=parser.prog,
        function=function,
        cases="\n".join(cases),
        flags=" ".join(option for action in _options(parser) for option in action.option_strings),
        positional=f"        {_bash_values(function, _positional(parser)) or ':'}",
    )


def _bash_values(function: str, values: Values) -> str:
    parts = []
    if values.words:
        parts.append(f"{function}_words {shlex.quote(' '.join(values.words))}")
    if values.files:
        parts.append(f"{function}_files {' '.join(shlex.quote(suffix) for suffix in values.suffixes or ('',))}")
    return "; ".join(parts)


# ---- zsh


def _zsh(parser: argparse.ArgumentParser) -> str:
    lines = []
    for action in _options(parser):
        arguments = "".join(_zsh_values(values, action) for values in _values(action))
        text = _zsh_escape(_summary(action))
        repeat = "*" if isinstance(action, argparse._AppendAction) else ""
        lines += [shlex.quote(f"{repeat}{option}[{text}]{arguments}") for option in action.option_strings]
    lines.append(shlex.quote(f"1{_zsh_values(_positional(parser), None)}"))
    body = " \\\n        ".join(lines)
    return (
        f"#compdef {parser.prog}\n"
        f'# zsh completion for {parser.prog}; put it in effect with: eval "$({parser.prog} --completion zsh)"\n'
        f"{_function(parser)}() {{\n    _arguments -S \\\n        {body}\n}}\n"
        f'if [[ "$funcstack[1]" == {_function(parser)} ]]; then\n    {_function(parser)} "$@"\n'
        f"else\n    compdef {_function(parser)} {parser.prog}\nfi\n"
    )


def _zsh_values(values: Values, action: argparse.Action | None) -> str:
    name = _zsh_escape(str(action.metavar if action and isinstance(action.metavar, str) else "value").lower())
    if values.words and values.files:
        return f":{name}:{{compadd -- {' '.join(values.words)}; _files{_zsh_pattern(values)}}}"
    if values.files:
        return f":{name}:_files{_zsh_pattern(values)}"
    if any(word.endswith("=") for word in values.words):
        return f":{name}:{{compadd -S '' -- {' '.join(values.words)}}}"
    return f":{name}:({' '.join(values.words)})" if values.words else f":{name}: "


def _zsh_pattern(values: Values) -> str:
    return f' -g "*({"|".join(values.suffixes)})(-.)"' if values.suffixes else ""


def _zsh_escape(text: str) -> str:
    return re.sub(r"([\[\]:\\])", r"\\\1", text)


# ---- fish


def _fish(parser: argparse.ArgumentParser) -> str:
    prog = parser.prog
    lines = [
        f"# fish completion for {prog}; put it in effect with: {prog} --completion fish | source",
        f"complete -c {prog} -f",
        f"complete -c {prog} {_fish_values(_positional(parser))}".rstrip(),
    ]
    for action in _options(parser):
        parts = [f"complete -c {prog}"]
        parts += [
            f"-{'l' if option.startswith('--') else 's'} {option.lstrip('-')}" for option in action.option_strings
        ]
        arguments = _values(action)
        if arguments:
            parts += ["-x", _fish_values(arguments[0])]
        parts.append(f"-d {_fish_quote(_summary(action))}")
        lines.append(" ".join(part for part in parts if part))
    return "\n".join(lines) + "\n"


def _fish_values(values: Values) -> str:
    parts = list(values.words)
    if values.files:
        parts.append(" ".join(f"(__fish_complete_suffix {suffix})" for suffix in values.suffixes or ("",)))
    return f"-a {_fish_quote(' '.join(parts))}" if parts else ""


def _fish_quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _summary(action: argparse.Action) -> str:
    return re.split(r"[;.]\s", (action.help or "").replace("%%", "%"))[0]
