"""The settings file: what it may hold, and what is said about what it may not."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference.errors import InputError
from inference.load_options import LoadOptions
from inference.sampling import Sampling
from tui import paths, state
from tui.config import KEYS, LOAD_KEYS, PRESETS, Config, Preset, default_config, load_config


@pytest.fixture
def read(tmp_path):
    def read_text(text: str) -> Config:
        (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
        return load_config(tmp_path / "config.yaml")

    return read_text


def test_everything_at_once(read, tmp_path):
    config = read(
        """
model: models/koala.gguf
endpoint: http://localhost:8080/v1
endpoint_model: big
system: |
  Be brief.
  Be kind.
sampling: {temperature: 0.3, seed: 7}
load:
  n_ctx: 4096
  n_threads: auto
  flash_attention: on
  template: chatml
presets:
  precise: {temperature: 0.1}
  mine:
    top_k: 0
    system: Rhyme.
theme: nord
keys: {new: "ctrl+t,f5"}
folders: [more, /elsewhere]
sidebar: no
mouse: false
save_chats: false
"""
    )
    assert config == Config(
        model=str(tmp_path / "models/koala.gguf"),
        endpoint="http://localhost:8080/v1",
        endpoint_model="big",
        system="Be brief.\nBe kind.\n",
        sampling=Sampling(temperature=0.3, seed=7),
        load=LoadOptions(n_ctx=4096, flash_attention=True, template="chatml"),
        presets={**PRESETS, "precise": Preset({"temperature": 0.1}), "mine": Preset({"top_k": 0}, "Rhyme.")},
        theme="nord",
        keys={"new": "ctrl+t,f5"},
        folders=(tmp_path / "more", Path("/elsewhere")),
        sidebar=False,
        mouse=False,
        save_chats=False,
    )


@pytest.mark.parametrize("text", ["", "# nothing\n", "sampling:\n", "load:\npresets:\nfolders:\nmodel: null\n"])
def test_what_is_not_set_is_the_default(read, text):
    assert read(text) == Config()


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("\nmodle: x", 2, "modle: there is no such setting; did you mean model?"),
        ("colour: x", 1, "there are model, endpoint"),
        ("sampling:\n  temprature: 1", 2, "sampling.temprature: there is no such setting; did you mean temperature?"),
        ("sampling:\n  temperature: hot", 2, "sampling.temperature: this needs a number, not 'hot'"),
        ("sampling:\n  temperature: yes", 2, "this needs a number, not True"),
        ("sampling:\n  top_k: 1.5", 2, "this needs a whole number, not 1.5"),
        ("sampling:\n  min_p: 0\n  top_p: 3", 3, "top_p=3 is out of range; it goes from 0 to 1"),
        ("sampling: 3", 1, "sampling: this needs lines of the form NAME: VALUE"),
        ("load:\n  kv_type: q9", 2, "there is no KV cache type 'q9'"),
        ("load:\n  mmap: perhaps", 2, "load.mmap: this needs true or false, not 'perhaps'"),
        ("presets:\n  mine:\n    top_p: 2", 3, "presets.mine: the setting top_p=2 is out of range"),
        ("presets:\n  mine:\n    warmth: 2", 3, "presets.mine.warmth: there is no such setting"),
        ("system: 3", 1, "system: this needs a text; write it in quotes: '3'"),
        ("theme: [a]", 1, "theme: this needs a text"),
        ("folders: /models", 1, "folders: this needs a list, one path a line after a dash"),
        ("keys:\n  new: 5", 2, "keys.new: this needs a text"),
        ("mouse: 2024-13-45", 1, "mouse: this needs true or false"),
        ("theme: a\ntheme: b", 2, "theme: this is set twice"),
        ("- a", 1, "this needs lines of the form NAME: VALUE"),
        ("theme: [", 1, "this is not YAML"),
        ("? [a]\n: b", 1, "a key must be a plain word"),
    ],
)
def test_a_mistake_is_one_sentence_with_file_line_and_key(read, tmp_path, text, line, said):
    with pytest.raises(InputError) as error:
        read(text)
    assert str(error.value).startswith(f"{tmp_path / 'config.yaml'}, line {line}: ")
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text", ["{{" * 3000, "[" * 3000, "a: \x01", "&a [*a]", "a: &x [*x]", "system: !!python/name:os.system x"]
)
def test_hostile_yaml_is_a_sentence_too(read, text):
    with pytest.raises(InputError):
        read(text)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"cannot be read: No such file"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(InputError, match=r"cannot be read: Is a directory"):
        load_config(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("system: Grüße".encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8"):
        load_config(tmp_path / "latin.yaml")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.sampled_from([*KEYS, "other"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["temperature", "n_ctx", "system", "x"]), inner, max_size=3)
            ),
            max_leaves=5,
        ),
        max_size=4,
    )
)
def test_whatever_the_file_holds_it_is_settings_or_a_sentence(tmp_path, values):
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    try:
        assert isinstance(load_config(file), Config)
    except InputError as error:
        assert str(file) in str(error)


def test_the_printed_file_holds_everything_and_changes_nothing(read):
    text = default_config()
    assert read(text) == Config()
    lines = [line[1:] for line in text.splitlines() if re.match(r"#(\w|  )", line)]
    assert read("\n".join(lines)) == Config()
    assert {line.partition(":")[0] for line in lines if not line.startswith(" ")} == set(KEYS)
    nested = {line.strip().partition(":")[0] for line in lines if line.startswith("  ")}
    assert nested == {field.name for field in (*fields(Sampling), *fields(LoadOptions))} | set(PRESETS)
    assert max(map(len, text.splitlines())) <= 120 + len(str(paths.models_folder()))


def test_every_setting_of_the_engine_can_be_set():
    assert set(LOAD_KEYS) == {field.name for field in fields(LoadOptions)}
    assert set(KEYS) == {field.name for field in fields(Config)}


def test_presets_change_what_they_name():
    mine = Sampling(max_tokens=5, seed=1, temperature=2)
    assert PRESETS["greedy"].apply(mine) == Sampling(max_tokens=5, seed=1, temperature=0)
    assert PRESETS["balanced"].apply(mine) == Sampling(max_tokens=5, seed=1)
    for preset in PRESETS.values():
        assert isinstance(preset.apply(Sampling()), Sampling)


class TestPlaces:
    def test_koala_home_holds_everything(self, monkeypatch, tmp_path):
        monkeypatch.setenv("KOALA_HOME", str(tmp_path))
        assert paths.store_file() == tmp_path / "chats.db"
        assert paths.models_folder() == tmp_path / "models"
        assert paths.config_file() == tmp_path / "config.yaml"
        assert paths.state_file() == tmp_path / "state.json"
        assert paths.sequences_folder() == tmp_path / "cache" / "sequences"

    def test_a_relative_koala_home_stays_where_it_was(self, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("KOALA_HOME", "here")
        assert paths.store_file() == tmp_path / "here" / "chats.db"

    def test_the_usual_places(self, monkeypatch, tmp_path):
        monkeypatch.delenv("KOALA_HOME", raising=False)
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
        if paths.store_file().is_relative_to(tmp_path):  # as on Linux
            assert paths.store_file() == tmp_path / "data" / "koala-tui" / "chats.db"
        places = [paths.store_file(), paths.config_file(), paths.state_file(), paths.sequences_folder()]
        assert len(set(places)) == 4 and all("koala-tui" in place.parts for place in places)


class TestState:
    @pytest.fixture(autouse=True)
    def home(self, monkeypatch, tmp_path):
        monkeypatch.setenv("KOALA_HOME", str(tmp_path / "home"))

    def test_what_is_remembered(self):
        assert state.recall() == {}
        state.remember(last_model="/a.gguf", theme="nord")
        state.remember(theme=None, sidebar=False)
        assert state.recall() == {"last_model": "/a.gguf", "sidebar": False}
        assert [file.name for file in paths.state_file().parent.iterdir()] == ["state.json"]

    @pytest.mark.parametrize("damage", ["", "{", "[1]", "\x00"])
    def test_a_damaged_file_is_as_if_there_were_none(self, damage):
        state.remember(theme="nord")
        paths.state_file().write_text(damage)
        assert state.recall() == {}
        state.remember(sidebar=True)
        assert state.recall() == {"sidebar": True}

    def test_a_place_that_cannot_be_written_is_no_trouble(self, monkeypatch, tmp_path):
        (tmp_path / "file").touch()
        monkeypatch.setenv("KOALA_HOME", str(tmp_path / "file"))
        state.remember(theme="nord")
        assert state.recall() == {}
