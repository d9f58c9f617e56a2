import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.builtin_templates import BUILTIN, FOLDER, choose_template
from inference.chat_template import ChatTemplate
from inference.errors import InputError
from inference.gguf_header import read_header
from tests.tiny_gguf import CHATML_TEMPLATE, CONTROL, KOALA_TEMPLATE, write_tiny_gguf

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Bye"},
]
LLAMA3 = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """The header of a GGUF without a template."""
    return read_header(write_tiny_gguf(tmp_path_factory.mktemp("bare") / "bare.gguf", template=None))


def prompt(source: str, messages=CHAT, special=SPECIAL, controls=CONTROL) -> str:
    return "".join(piece.text for piece in ChatTemplate(source, controls, special).pieces(messages))


def test_all_are_there():
    assert {path.stem for path in FOLDER.glob("*.jinja")} == set(BUILTIN)


conversations = st.tuples(
    st.booleans(), st.lists(st.text(alphabet="ab \n<>{}%é", min_size=1, max_size=8), min_size=1, max_size=5)
)


@given(conversations)
def test_koala_is_the_format_of_training(bare, conversation):
    system, texts = conversation
    messages = [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 3, texts, strict=False)]
    messages = [{"role": "system", "content": "Be kind."}] * system + messages
    ours = ChatTemplate(choose_template(bare, (), "koala").source, CONTROL, SPECIAL)
    theirs = ChatTemplate(KOALA_TEMPLATE, CONTROL, SPECIAL)
    assert ours.pieces(messages) == theirs.pieces(messages)
    assert ours.pieces(messages, continue_final=False) == theirs.pieces(messages, continue_final=False)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("koala", "<s>BEGINNING OF CONVERSATION: Be kind. USER: Hi GPT: Hello</s>USER: Bye GPT:"),
        (
            "chatml",
            "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
            "<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "llama3",
            "<s><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nHello<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        ("mistral", "<s>[INST] Be kind.\n\nHi[/INST] Hello</s>[INST] Bye[/INST]"),
        ("plain", "<s>Be kind.\n\nUser: Hi\nAssistant: Hello\nUser: Bye\nAssistant:"),
    ],
)
def test_the_formats(bare, name, expected):
    choice = choose_template(bare, (), name)
    assert prompt(choice.source) == expected
    # A reply that goes on stands where it stands when it is finished.
    begun = prompt(choice.source, CHAT[:3])
    assert begun.endswith("Hello") and expected.startswith(begun)


@pytest.mark.parametrize("name", BUILTIN)
def test_a_model_without_special_tokens_can_be_spoken_to(bare, name):
    assert "Hello" in prompt(choose_template(bare, (), name).source, special={}, controls=())


def test_the_file_s_own_comes_first(tmp_path):
    header = read_header(write_tiny_gguf(tmp_path / "own.gguf", template=CHATML_TEMPLATE))
    choice = choose_template(header, CONTROL)
    assert (choice.name, choice.source, choice.stops) == ("own", CHATML_TEMPLATE, ())
    assert choice.why == "the file's own"
    assert choose_template(header, CONTROL, "koala").why == "koala, as asked for"


@pytest.mark.parametrize(
    ("controls", "name", "stops"),
    [
        (CONTROL, "chatml", ("<|im_end|>",)),
        (LLAMA3, "llama3", ("<|eot_id|>",)),
        (("[INST]", "[/INST]"), "mistral", ("[INST]",)),
        (("<|im_start|>",), "plain", ("\nUser:",)),
        ((), "plain", ("\nUser:",)),
    ],
)
def test_without_one_the_tokens_tell(bare, controls, name, stops):
    choice = choose_template(bare, controls)
    assert (choice.name, choice.stops) == (name, stops)
    assert choice.why.startswith(name) and "--template" in choice.why


def test_an_empty_template_is_none(tmp_path):
    header = read_header(write_tiny_gguf(tmp_path / "empty.gguf", template=" \n"))
    assert choose_template(header, ()).name == "plain"


def test_a_file(bare, tmp_path):
    (tmp_path / "mine.jinja").write_text("{{ messages[0].content }}!", encoding="utf-8-sig")
    choice = choose_template(bare, CONTROL, str(tmp_path / "mine.jinja"))
    assert (choice.name, choice.source, choice.why) == (
        "mine.jinja",
        "{{ messages[0].content }}!",
        "mine.jinja, as asked for",
    )


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("alpaca", None, "there is no prompt format 'alpaca'; choose one of koala, chatml, llama3, mistral, plain"),
        (".", None, "cannot be read"),
        ("a\0b", None, "cannot be read"),
        ("empty.jinja", b"\n", "is empty"),
        ("latin.jinja", b"\xff\xfe", "is not UTF-8"),
        ("large.jinja", b"x" * (2**20 + 1), "larger than 1 MB"),
    ],
)
def test_what_is_no_template_is_a_sentence(bare, tmp_path, monkeypatch, name, content, said):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said):
        choose_template(bare, CONTROL, name)
