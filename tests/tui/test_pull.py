"""Downloads from a stand-in of the hub: choosing, resuming, cancelling, and every refusal as a sentence."""

import asyncio
import errno
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.errors import EngineError, InputError
from tests.tiny_gguf import write_tiny_gguf
from tui import hub as hub_module
from tui.hub import HubFile, HubModel, choose, download, find_models, group, parse_name, quantization
from tui.pull import pull

from .fake_hub import SHA, serve_hub

ROOT = Path(__file__).parent.parent.parent
NAME = "owner/tiny-GGUF"


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    return write_tiny_gguf(tmp_path_factory.mktemp("hub") / "model.gguf").read_bytes()


@pytest.fixture
def hub(monkeypatch, gguf):
    from huggingface_hub import constants

    with serve_hub() as hub:
        hub.repositories[NAME] = {"README.md": b"#", "tiny.Q8_0.gguf": gguf, "mmproj-tiny-f16.gguf": b"eyes"}
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hub_module, "PAUSE_SECONDS", 0)
        yield hub


def run(folder, repository=NAME, wanted=None):
    """Return the path that the command prints, and what it says besides."""
    out, err = io.StringIO(), io.StringIO()
    assert pull(repository, wanted, out, err, folder) == 0
    [line] = out.getvalue().splitlines()
    return Path(line), err.getvalue()


async def fetch(folder, repository=NAME, wanted=None, progress=lambda done, total: None):
    return await download(choose(await find_models(repository), wanted), folder, progress)


def leftovers(folder):
    return [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".gguf"]


def test_the_only_model_of_a_repository(hub, tmp_path, gguf):
    path, said = run(tmp_path)
    assert path == tmp_path / NAME / "tiny.Q8_0.gguf"
    assert path.read_bytes() == gguf and not leftovers(tmp_path)
    assert said.startswith(f"download {NAME} tiny.Q8_0.gguf (") and "100%" in said
    assert run(tmp_path)[0] == path and len(hub.ranges) == 1


def command(hub, home, *arguments):
    """Start the command; what it is asked to do takes place in `home`."""
    return subprocess.Popen(
        [sys.executable, "-m", "tui", "--pull", *arguments],
        env=os.environ | {"HF_ENDPOINT": hub.url, "KOALA_HOME": str(home), "HF_HUB_OFFLINE": "0"},
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def test_the_command(hub, tmp_path):
    process = command(hub, tmp_path, NAME, "q8_0")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert Path(out.strip()) == tmp_path / "models" / NAME / "tiny.Q8_0.gguf" and Path(out.strip()).is_file()
    process = command(hub, tmp_path, NAME, "Q4_0")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert err == f"error: {NAME} has no Q4_0; it has tiny.Q8_0.gguf (2.6 MB)\n"


def test_ctrl_c_keeps_what_has_come(hub, tmp_path):
    hub.stalls_after = 2_000_000
    process = command(hub, tmp_path, NAME)
    deadline = time.monotonic() + 30
    while not any(path.stat().st_size for path in leftovers(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130 and "Traceback" not in err
    [part] = leftovers(tmp_path)
    assert part.stat().st_size > 0


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("q4_k_m", "a-Q4_K_M.gguf"),
        ("A-q8_0.GGUF", "a-Q8_0.gguf"),
        ("a-Q8_0", "a-Q8_0.gguf"),
        ("big/a-BF16-00002-of-00002.gguf", "big/a-BF16-00001-of-00002.gguf"),
        ("bf16", "big/a-BF16-00001-of-00002.gguf"),
        ("mmproj-a-f16.gguf", "mmproj-a-f16.gguf"),
    ],
)
def test_a_file_or_a_quantization(wanted, found):
    names = ["a-Q4_K_M.gguf", "a-Q8_0.gguf", "mmproj-a-f16.gguf"]
    names += [f"big/a-BF16-0000{number}-of-00002.gguf" for number in (2, 1)]
    names += ["half-F32-00001-of-00002.gguf"]  # not a whole model
    models = group("o/a", SHA, [HubFile(name, 1000) for name in names])
    assert len(models) == 4
    assert choose(models, wanted).name == found
    with pytest.raises(InputError, match=r"o/a has 3 models; name one of them: a-Q4_K_M.gguf \(1.0 kB\), a-Q8_0"):
        choose(models, None)
    with pytest.raises(InputError, match="o/a has no Q6_K; it has a-Q4_K_M"):
        choose(models, "Q6_K")


def test_two_models_of_one_quantization():
    models = group("o/a", SHA, [HubFile("a-Q8_0.gguf", 10), HubFile("b-Q8_0.gguf", 10)])
    with pytest.raises(InputError, match=r"several models of o/a are called Q8_0: a-Q8_0.gguf \(10 B\), b-"):
        choose(models, "Q8_0")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Llama-3-8B-Instruct.Q4_K_M.gguf", "Q4_K_M"),
        ("qwen2.5-7b-instruct-q5_k_m-00001-of-00002.gguf", "Q5_K_M"),
        ("x-IQ2_XXS.gguf", "IQ2_XXS"),
        ("x-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("F16/x.gguf", "F16"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("model.gguf", ""),
        ("Q4000.gguf", ""),
    ],
)
def test_quantizations_in_names(name, said):
    assert quantization(name) == said


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("o/n", ("o/n", None)),
        ("gpt2", ("gpt2", None)),
        ("hf.co/o/n:Q4_K_M", ("o/n", "Q4_K_M")),
        ("https://huggingface.co/o/n/", ("o/n", None)),
        ("https://huggingface.co/o/n/tree/main", ("o/n", None)),
        ("https://huggingface.co/o/n/blob/main/a/b.gguf?x=1", ("o/n", "a/b.gguf")),
    ],
)
def test_names_as_people_copy_them(text, parsed):
    assert parse_name(text) == parsed


@given(st.text())
def test_any_other_name_is_a_sentence(text):
    try:
        repository, _ = parse_name(text)
    except InputError as error:
        assert "write it like OWNER/NAME" in str(error)
    else:
        assert ".." not in repository.split("/") and repository.count("/") <= 1


def test_a_split_model_comes_whole(hub, tmp_path, gguf):
    hub.repositories["o/split"] = {"m-00001-of-00002.gguf": gguf, "m-00002-of-00002.gguf": gguf[:1000]}
    steps = []
    header = asyncio.run(fetch(tmp_path, "o/split", progress=lambda *step: steps.append(step)))
    assert header.path.name == "m-00001-of-00002.gguf"
    assert (header.path.parent / "m-00002-of-00002.gguf").read_bytes() == gguf[:1000]
    total = len(gguf) + 1000
    assert steps == sorted(steps) and steps[-1] == (total, total)


def test_a_broken_connection_is_made_again(hub, tmp_path, gguf):
    hub.cuts = [100_000, 0, 0, 3_000]
    path, _ = run(tmp_path)
    assert path.read_bytes() == gguf
    assert hub.ranges == [None, "bytes=100000-", "bytes=100000-", "bytes=100000-", "bytes=103000-"]


def test_what_has_come_is_kept_for_the_next_time(hub, tmp_path, gguf):
    hub.cuts = [1_000_000, *[0] * 50]
    with pytest.raises(EngineError, match=r"broke off at \d+% \(.*\); start it again later"):
        run(tmp_path)
    assert len(leftovers(tmp_path)) == 1
    hub.cuts, hub.ranges = [], []
    assert run(tmp_path)[0].read_bytes() == gguf
    assert hub.ranges == ["bytes=1000000-"] and not leftovers(tmp_path)


def test_a_server_that_knows_no_parts(hub, tmp_path, gguf):
    hub.cuts, hub.whole_files_only = [1_000_000], True
    assert run(tmp_path)[0].read_bytes() == gguf


def test_a_server_that_fails_now_and_then(hub, tmp_path, gguf):
    hub.failures = [503, 500, 429]
    assert run(tmp_path)[0].read_bytes() == gguf


def test_a_damaged_download_is_thrown_away(hub, tmp_path):
    hub.wrong_sums = True
    with pytest.raises(EngineError, match=r"tiny.Q8_0.gguf arrived damaged and was thrown away"):
        run(tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


async def test_cancelling_takes_effect_at_once(hub, tmp_path, gguf, monkeypatch):
    monkeypatch.setattr(hub_module, "WRITE_SECONDS", 0)
    hub.stalls_after = 500_000
    began = asyncio.Event()
    task = asyncio.create_task(fetch(tmp_path, progress=lambda done, total: done and began.set()))
    await asyncio.wait_for(began.wait(), 10)
    before = asyncio.get_running_loop().time()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.get_running_loop().time() - before < 1
    [part] = leftovers(tmp_path)
    kept = part.stat().st_size
    assert 0 < kept <= 500_000
    hub.go_on.set()
    hub.stalls_after = None
    header = await fetch(tmp_path)
    assert header.path.read_bytes() == gguf and f"bytes={kept}-" in hub.ranges


async def test_the_same_download_twice(hub, tmp_path):
    hub.stalls_after = 500_000
    began = asyncio.Event()
    first = asyncio.create_task(fetch(tmp_path, progress=lambda done, total: began.set()))
    await asyncio.wait_for(began.wait(), 10)
    with pytest.raises(InputError, match="is being downloaded already"):
        await fetch(tmp_path)
    hub.go_on.set()
    assert (await first).path.is_file()


@pytest.mark.parametrize(
    ("repository", "error", "message"),
    [
        ("o/none", InputError, "there is no public repository o/none on the hub; mend the name, or log in"),
        (
            "o/gated",
            InputError,
            r"o/gated is gated: accept its terms at http://.*/o/gated, log in with `hf auth login`",
        ),
        ("o/closed", InputError, r"the hub does not let you have o/closed \(403\)"),
        ("o/busy", EngineError, "has had too many requests"),
        ("o/broken", EngineError, "answered with error 500 for o/broken"),
        ("o/empty", InputError, "o/empty has no GGUF file"),
        ("../x", InputError, "is no repository of the hub"),
        ("o/evil", InputError, "has a name that no file here can have"),
        ("o/text", InputError, r"text.gguf is not a GGUF file"),
    ],
)
def test_refusals_are_sentences(hub, tmp_path, repository, error, message):
    hub.repositories |= {
        "o/empty": {"README.md": b"#"},
        "o/evil": {"../../evil.gguf": b"GGUF"},
        "o/text": {"text.gguf": b"<html>"},
    }
    hub.refused = {
        "o/gated": (403, {"X-Error-Code": "GatedRepo"}),
        "o/closed": (403, {}),
        "o/busy": (429, {}),
        "o/broken": (500, {}),
    }
    with pytest.raises(error, match=message) as caught:
        run(tmp_path, repository)
    assert isinstance(caught.value, InputError) == (error is InputError)
    assert "\n" not in str(caught.value)


def test_no_network(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(EngineError, match=r"the hub at http://127.0.0.1:9 cannot be reached .*; check the network"):
        run(tmp_path)


def test_offline_on_purpose(hub, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        run(tmp_path)


def test_something_else_than_a_hub(hub, tmp_path):
    hub.listing = b"<html>"
    with pytest.raises(InputError, match="is no hub, as its answer shows; check HF_ENDPOINT"):
        run(tmp_path)


def test_no_room(hub, tmp_path):
    model = HubModel("o/huge", SHA, (HubFile("huge.gguf", 10**18),))
    with pytest.raises(InputError, match=r"there is no room in .*: 1000000 TB are needed, and .* are free"):
        asyncio.run(download(model, tmp_path, lambda done, total: None))


def test_a_disk_that_becomes_full(hub, tmp_path, monkeypatch):
    def full(self, out, piece):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hub_module._Fetch, "_write", full)
    with pytest.raises(EngineError, match="is full; make room and start again"):
        run(tmp_path)


def test_a_folder_that_may_not_be_written(hub, tmp_path):
    (tmp_path / "owner").write_text("a file")
    with pytest.raises(EngineError, match="cannot be written"):
        run(tmp_path)


def test_names_that_would_do_something_to_a_terminal(hub, tmp_path, gguf):
    hub.repositories["o/n"] = {"a\x1b[31m.gguf": gguf, "b\u202e.gguf": gguf}
    with pytest.raises(InputError) as caught:
        run(tmp_path, "o/n", "a\x1b[31m.gguf")
    assert "has a name that no file here can have" in str(caught.value)
    path, said = run(tmp_path, "o/n", "b\u202e.gguf")
    assert "\u202e" not in f"{path}{said}"
