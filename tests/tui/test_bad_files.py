"""Files that are no model to chat with: a sentence each, and the app goes on with another one."""

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from inference.load_options import LoadOptions
from tests.tiny_gguf import REPLY, write_tiny_gguf
from tests.tui.conftest import answered, app_with_model, composed, notices, said, screen_text, send, state, until


def cut(path: Path) -> None:
    whole = write_tiny_gguf(path).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def text(path: Path) -> None:
    path.write_bytes(gguf.GGUF_MAGIC.to_bytes(4, "little") + b"\3\0\0\0 and then a letter to a friend" * 9)


def vocabulary_only(path: Path) -> None:
    _write(gguf.GGUFWriter(path, "llama"))


def embedding_model(path: Path) -> None:
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_pooling_type(gguf.PoolingType.LAST)
    writer.add_tensor("token_embd.weight", np.zeros((8, 32), dtype=np.float32))
    _write(writer)


def _write(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def too_large(path: Path) -> None:
    write_tiny_gguf(path)


BAD = [
    (cut, {}, "incomplete"),
    (text, {}, "text.gguf"),
    (vocabulary_only, {}, "holds a vocabulary and no weights"),
    (embedding_model, {}, "embedding model"),
    (too_large, {"n_ctx": 2**30}, "needs about"),
]


@pytest.mark.parametrize(("write", "options", "sentence"), BAD, ids=lambda value: getattr(value, "__name__", ""))
async def test_a_bad_file_is_a_sentence_and_another_model_answers(
    tmp_path, models, write: Callable[[Path], object], options, sentence
):
    path = tmp_path / f"{write.__name__}.gguf"
    write(path)
    app = app_with_model(path)
    app.host.options = LoadOptions(n_threads=1, **options)
    async with app.run_test(size=(110, 40)) as pilot:
        await until(lambda: notices(app))
        assert sentence in notices(app)[0] and "Traceback" not in screen_text(app)
        assert state(app).startswith("failed")
        await send(pilot, "Is anybody there?")
        await until(lambda: composed(app) == "Is anybody there?")  # nobody is, so it is the user's again
        app.load_model(models["koala"], LoadOptions(n_threads=1))
        await until(lambda: state(app) == "ready")
        await pilot.press("enter")
        await answered(pilot)
        assert said(app) == [("user", "Is anybody there?"), ("assistant", REPLY)]


@pytest.mark.parametrize("template", [None, "{{ raise_exception('no') }}", "{% for %}", "{{ ''.__class__.__mro__ }}"])
async def test_a_file_without_a_usable_template(tmp_path, template):
    app = app_with_model(write_tiny_gguf(tmp_path / "odd.gguf", template=template), max_tokens=4)
    async with app.run_test(size=(110, 40)) as pilot:
        await until(lambda: state(app) == "ready" or notices(app))
        if template is None:
            assert "the file has none" in app.host.loaded.template  # stated, and shown by the help
            await send(pilot, "Hello")
            await answered(pilot)
            assert len(said(app)) == 2
            return
        await send(pilot, "Hello")
        await until(lambda: any("template" in notice for notice in notices(app)))
        await until(lambda: composed(app) == "Hello")
