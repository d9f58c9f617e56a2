"""The chat template for engines that do not know transformers' `{% generation %}` tags."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime

from datasets_cfg.errors import BadInput, one_line

from .corpus import CONVERSATIONS

# In this order at any place: a comment and a raw block are left alone whatever they hold, and so are the strings in
# a tag.
_STRING = r"\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'"
_TOKEN = re.compile(
    r"\{#.*?#\}"
    r"|\{%[-+]?\s*raw\s*[-+]?%\}.*?\{%[-+]?\s*endraw\s*[-+]?%\}"
    r"|\{%(?P<before>[-+]?)\s*(?:end)?generation\s*(?P<after>[-+]?)%\}"
    rf"|\{{%(?:{_STRING}|.)*?%\}}"
    rf"|\{{\{{(?:{_STRING}|.)*?\}}\}}",
    re.DOTALL,
)


def without_generation_tags(template: str) -> str:
    """Put an empty comment with the same white-space control in place of each `{% generation %}` and its end.

    Only training needs the tags; llama.cpp's and llama-cpp-python's Jinja reject them. A comment trims the text around
    it exactly as the tag did, so the rendered text stays the same.
    """

    def replace(match: re.Match) -> str:
        if match["before"] is None:
            return match[0]
        return f"{{#{match['before']} {match['after']}#}}"

    return _TOKEN.sub(replace, template)


def portable_template(template: str, special_tokens: Mapping[str, str]) -> str:
    """The template without generation tags, proven to render the sample conversations as transformers renders it.

    Raises:
        BadInput: the template is invalid, renders none of the conversations, or renders otherwise without the tags.
    """
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    stripped = _without_other_tokens(without_generation_tags(template), special_tokens)
    rendered, refusal = 0, None
    for messages in CONVERSATIONS:
        for ask in (False, True):
            try:
                (before,), _ = render_jinja_template(
                    [messages], chat_template=template, add_generation_prompt=ask, **special_tokens
                )
            except TemplateError as error:
                refusal = error
                continue  # a template may refuse a system message, say
            except Exception as error:  # a template may divide by zero, or call itself for ever
                raise BadInput(f"the chat template fails: {one_line(error)}; mend it or remove it") from error
            rendered += 1
            try:
                after = _render_plainly(stripped, messages, add_generation_prompt=ask, **special_tokens)
            except TemplateError as error:
                raise BadInput(f"the chat template fails without its generation tags: {error}") from error
            if before != after:
                raise BadInput(
                    f"the chat template renders otherwise without its generation tags: {before!r} becomes {after!r}; "
                    "simplify the white-space control around the tags"
                )
    if not rendered:
        raise BadInput(f"the chat template renders none of the sample conversations: {refusal}")
    return stripped


def _without_other_tokens(template: str, special_tokens: Mapping[str, str]) -> str:
    """The template with empty texts for the tokens that the tokenizer does not have.

    transformers renders them as nothing, but of a file that names no beginning of sequence llama.cpp takes token 11.
    """
    missing = [name for name in ("bos_token", "eos_token") if name in template and name not in special_tokens]
    return "".join(f'{{%- set {name} = "" -%}}' for name in missing) + template


def _render_plainly(template: str, messages: Sequence[Mapping[str, str]], **variables: object) -> str:
    """Render as engines do that are not transformers: no tags beyond Jinja's own, and loop controls."""
    from jinja2 import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str):
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(template).render(messages=messages, tools=None, documents=None, **variables)
