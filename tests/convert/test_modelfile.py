"""The Go template of a Modelfile, run in a small interpreter of that language, writes what Jinja's writes."""

import ast
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convert.modelfile import NoModelfile, modelfile
from datasets_cfg.prompt import koala_template, render

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN2 = "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nBe helpful.<|im_end|>\n' }}{% endif %}" + CHATML
LLAMA3 = (
    "{% for message in messages %}{% set content = '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' + "
    "message.content | trim + '<|eot_id|>' %}{% if loop.first %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}{{ '[INST] ' + message.content + "
    "' [/INST]' }}{% elif message.role == 'assistant' %}{{ ' ' + message.content + eos_token }}{% else %}"
    "{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
)
LLAMA2 = (
    "{% if messages[0].role == 'system' %}{% set system = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}{% for message in messages %}"
    "{% if message.role == 'user' %}{{ bos_token if loop.first }}{{ '[INST] ' + (system if loop.first else '') }}"
    "{{ message.content + ' [/INST]' }}{% else %}{{ ' ' + message.content + ' ' + eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'system' %}{{ raise_exception('') }}{% endif %}"
    "{% set role = 'model' if message.role == 'assistant' else message.role %}"
    "{{ '<start_of_turn>' + role + '\n' + message.content + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
TEMPLATES = {
    "Koala": koala_template(),
    "ChatML": CHATML,
    "Qwen 2": QWEN2,
    "Llama 3": LLAMA3,
    "Llama 2": LLAMA2,
    "Mistral": MISTRAL,
    "Gemma": GEMMA,
}
QUESTIONS = ("Who are you?", "  {{ .System }}\n\nand {% this %}?", "你好 😀", 'say """stop"""')
ANSWERS = ("I am Koala.", "1. one\n2. two", "再见", "")


def conversation(turns, *, system=False):
    messages = [{"role": "system", "content": "Answer briefly."}] if system else []
    for question, answer in zip(QUESTIONS[:turns], ANSWERS, strict=False):
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return messages[:-1]


def jinja(template, messages, tokens=TOKENS):
    return "".join(
        piece.text for piece in render(template, messages, tokens, control_tokens=(), add_generation_prompt=True)
    )


# ---- Go's side


def template_of(text):
    """What Ollama's parser takes as the template: all between the quotes, less what is not printable."""
    found = re.search(r'^TEMPLATE """(.*?)"""$', text, re.DOTALL | re.MULTILINE)[1]
    return "".join(c for c in found if c.isprintable() or c in "\n\t")


def go(template, messages):
    """Execute the part of Go's template language that a Modelfile here may use, as Ollama does for these messages."""
    stretches = re.split(r'\{\{ ((?:"(?:\\.|[^"\\])*"|[^"}])*) \}\}', template)
    tokens = [("action" if number % 2 else "text", text) for number, text in enumerate(stretches) if number % 2 or text]
    assert not any(kind == "text" and ("{{" in text or "}}" in text) for kind, text in tokens)
    tree, rest = parse(tokens)
    assert rest == []
    system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
    return execute(tree, {"System": system, "Messages": messages}, {})


def parse(tokens):
    """Nodes up to the `end` or `else` that closes them, and the tokens from there on."""
    nodes = []
    while tokens:
        (kind, text), tokens = tokens[0], tokens[1:]
        if kind == "action" and (text == "end" or text.startswith("else")):
            return nodes, [(kind, text), *tokens]
        if kind == "action" and text.split()[0] in ("if", "range"):
            body, tokens = parse(tokens)
            (_, closing), tokens = tokens[0], tokens[1:]
            otherwise = []
            if closing.startswith("else if "):
                # A chain has one `end`, which the inner parse leaves behind its node.
                inner, tokens = parse([("action", closing.removeprefix("else ")), *tokens])
                nodes += [(text, body, inner[:1]), *inner[1:]]
                continue
            if closing == "else":
                otherwise, tokens = parse(tokens)
                tokens = tokens[1:]
            nodes.append((text, body, otherwise))
        else:
            nodes.append((kind, text))
    return nodes, []


def execute(nodes, root, dot):
    out = ""
    for node in nodes:
        if len(node) == 2:
            kind, text = node
            out += text if kind == "text" else value(text, root, dot)
        elif node[0] == "range .Messages":
            out += "".join(execute(node[1], root, message) for message in root["Messages"])
        else:
            out += execute(node[1] if value(node[0].removeprefix("if "), root, dot) else node[2], root, dot)
    return out


def value(text, root, dot):
    if text.startswith('"'):
        return ast.literal_eval(text)
    if text in (".Content", ".Role"):
        return dot[text[1:].lower()]
    if text == ".System":
        return root["System"]
    if found := re.fullmatch(r'eq \.Role "(\w+)"', text):
        return dot["role"] == found[1]
    begin, other = re.fullmatch(r'ne \(printf "%\.(\d+)s" \.Content\) (".*")', text).groups()
    return dot["content"][: int(begin)] != ast.literal_eval(other)


# ---- the tests


@pytest.mark.parametrize("add_bos", [False, True])
@pytest.mark.parametrize("name", TEMPLATES)
def test_the_go_template_gives_the_prompts_of_the_jinja_template(name, add_bos):
    template = TEMPLATES[name]
    begins = "<s>" in jinja(template, conversation(1))
    if add_bos and not begins:
        with pytest.raises(NoModelfile, match="asks for a BOS token before every prompt"):
            modelfile("m.gguf", template, TOKENS, add_bos=True)
        return
    text = modelfile("m.gguf", template, TOKENS, add_bos=add_bos, stop_strings=["</s>", "<|im_end|>"])
    written = template_of(text)
    knows_system = name not in ("Mistral", "Gemma")
    for turns in range(1, 5):
        for system in (False, True)[: 1 + knows_system]:
            messages = conversation(turns, system=system)
            if name == "Llama 3":  # Go has no way to trim
                messages = [{**message, "content": message["content"].strip()} for message in messages]
            prompt = "<s>" * add_bos + go(written, messages)
            assert prompt == jinja(template, messages)
            assert prompt.count("<s>") == int(begins)
    assert ("knows no system message" in text) is not knows_system
    assert "\nFROM ./m.gguf\n" in text
    assert text.endswith('"""\nPARAMETER stop "</s>"\nPARAMETER stop "<|im_end|>"\n')


def test_an_answer_that_ollama_hands_back_with_its_space_gets_no_second_one():
    written = template_of(modelfile("m.gguf", koala_template(), TOKENS, add_bos=False))
    messages = conversation(2)
    kept = [{**m, "content": " " + m["content"] if m["role"] == "assistant" else m["content"]} for m in messages]
    assert go(written, kept) == go(written, messages) == jinja(koala_template(), messages)


texts = st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"], exclude_characters="\x00\r"), max_size=6)


@given(
    st.tuples(texts, texts, texts, texts, texts, texts, texts, texts) | st.tuples(*[st.text('{}"\n a', max_size=5)] * 8)
)
def test_whatever_a_template_writes_reaches_the_prompt(words):
    opening, before_system, after_system, before_user, after_user, asks, gap, after_answer = map(json.dumps, words)
    template = (
        f"{{{{ {opening} }}}}{{% for message in messages %}}"
        f"{{% if message.role == 'system' %}}{{{{ {before_system} + message.content + {after_system} }}}}"
        f"{{% elif message.role == 'user' %}}{{{{ {before_user} + message.content + {after_user} }}}}"
        f"{{% else %}}{{{{ {asks} + {gap} + message.content + {after_answer} }}}}{{% endif %}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{{{{ {asks} }}}}{{% endif %}}"
    )
    written = template_of(modelfile("m.gguf", template, {}, add_bos=False))
    for messages in (conversation(1), conversation(4), conversation(3, system=True)):
        # An answer that begins with the gap is taken for one that has it already.
        if not any(words[6] and m["content"].startswith(words[6]) for m in messages if m["role"] == "assistant"):
            assert go(written, messages) == jinja(template, messages, {})


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (CHATML.replace("'<|im_end|>\n'", "('' if loop.index == 5 else '<|im_end|>\n')"), "depend on more than"),
        (CHATML.replace("'<|im_end|>\n'", "('' if loop.last else '<|im_end|>\n')"), "writes .* where it asks for one"),
        ("{{ messages[-1].content }}", "leaves a message out"),
        ("{{ messages[0].content }}" + CHATML, "leaves a message out, repeats it or moves it"),
        ("{{ raise_exception('no chat') }}", "refuses a plain conversation: no chat"),
    ],
)
def test_a_template_that_go_cannot_follow_gives_the_reason(template, reason):
    with pytest.raises(NoModelfile, match=reason):
        modelfile("m.gguf", template, TOKENS, add_bos=False)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"gguf_name": "koala-Q8_0-00001-of-00003.gguf"}, "does not load a GGUF in several files"),
        ({"gguf_name": "two\nlines.gguf"}, "cannot hold the characters"),
        ({"stop_strings": ["\x07"]}, "cannot hold the characters"),
    ],
)
def test_what_a_modelfile_cannot_say_is_refused(options, reason):
    with pytest.raises(NoModelfile, match=reason):
        modelfile(**{"gguf_name": "m.gguf", "template": CHATML, "special_tokens": {}, "add_bos": False, **options})
