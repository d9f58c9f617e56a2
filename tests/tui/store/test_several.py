"""Several koala-tui on one store at once."""

import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from tui.store import Store, StoreError
from tui.store.opening import connect

from ...conftest import ROOT
from .conftest import said, talk

WRITER = """
import sys
from pathlib import Path
from tui.store import Store

store = Store.open(Path(sys.argv[1]))
name, rounds = sys.argv[2], int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
for number in range(rounds):
    chat = store.create_chat(f"{name} {number}")
    question = store.add_message(chat, None, "user", f"question of {name} {number}", durable=True)
    reply = store.add_message(chat, question, "assistant", "", state="streaming")
    for part in range(5):
        store.update_message(reply, content="word " * part, state="streaming")
        store.heartbeat([reply])
        store.changed()
        store.interrupted()
    store.search("question")
    store.update_message(reply, content=f"answer to {name} {number}", state="complete")
    store.chats()
print("done", flush=True)
"""


def start(path: Path, name: str, rounds: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), name, str(rounds)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_four_processes_write_at_once(path):
    processes = [start(path, name, 25) for name in "abcd"]  # none of them finds a store, all make one
    for process in processes:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        out, errors = process.communicate(timeout=60)
        assert (out, errors, process.returncode) == ("done\n", "", 0)
    with closing(Store.open(path)) as store:
        assert store.notice is None
        found = said(store)
        assert {title: [text for _, _, text in messages] for title, messages in found.items()} == {
            f"{name} {number}": [f"question of {name} {number}", f"answer to {name} {number}"]
            for name in "abcd"
            for number in range(25)
        }
    with closing(connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.execute("INSERT INTO search_index (search_index, rank) VALUES ('integrity-check', 1)")


def test_what_another_app_wrote_is_noticed_and_seen(path):
    with closing(Store.open(path)) as here, closing(Store.open(path)) as there:
        assert not here.changed()
        chat, _ = talk(there, "hello")
        assert here.changed()
        assert not here.changed()
        assert [m.content for m in here.path(chat)] == ["hello"]
        here.rename(chat, "mine")
        assert not here.changed()
        assert there.changed()


def test_a_live_reply_of_another_app_is_not_interrupted(path, monkeypatch):
    now = 1000.0
    monkeypatch.setattr("time.time", lambda: now)
    with closing(Store.open(path)) as here, closing(Store.open(path)) as there:
        chat, (question,) = talk(there, "hello")
        reply = there.add_message(chat, question, "assistant", "", state="streaming")
        for _ in range(5):
            now += 2
            there.heartbeat([reply])
            assert here.interrupted() == []
        there.update_message(reply, content="up to here", state="streaming")
        now += 6  # the other app has died
        assert here.interrupted() == [reply]
        assert [(m.content, m.state) for m in here.path(chat)][1] == ("up to here", "partial")
        assert here.interrupted() == []


def test_a_writer_waits_for_another(path):
    with closing(Store.open(path)) as store, closing(connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        begun = threading.Event()

        def write():
            begun.set()
            talk(store, "waited")

        thread = threading.Thread(target=write)
        thread.start()
        begun.wait()
        thread.join(0.2)
        assert thread.is_alive()
        other.execute("COMMIT")
        thread.join(10)
        assert not thread.is_alive()
        assert "waited" in said(store)


def test_who_waits_in_vain_is_told(path):
    with closing(Store.open(path)) as store, closing(connect(path)) as other:
        store.wait_at_most(0.1)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match=f"another program keeps {path} to itself"):
            store.create_chat()
        other.execute("COMMIT")
        talk(store, "goes on")


def test_a_durable_write_is_synchronized(path):
    def level(connection) -> int:
        return connection.execute("PRAGMA synchronous").fetchone()[0]

    with closing(Store.open(path)) as store:
        assert store._database.write(level, durable=True) == 2  # FULL
        assert store._database.write(level) == 1  # NORMAL
