"""Kills a program that writes to a store as the app does, again and again, and looks for what is missing.

    python -m tests.tui.store.kill_harness [--kills 500] [--seed 0]

The writer says on a pipe what it has written, after each step, and is killed with SIGKILL at a random moment, also
while it makes the store. Whatever it said must then be there. The writers that follow go on with the same store; after
some of them a new one is begun.
"""

import argparse
import itertools
import json
import os
import random
import select
import signal
import tempfile
import time
import traceback
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from tui.store import Store
from tui.store.opening import connect

LONGEST_LIFE_SECONDS = 0.06
KILLS_OF_A_STORE = 25


@dataclass
class Promised:
    """What the writers said is on disk: text and state of finished messages, and how far replies in the making were."""

    messages: dict[int, tuple[str, str]] = field(default_factory=dict)
    flushed: dict[int, str] = field(default_factory=dict)
    steps: int = 0

    def take(self, line: bytes) -> None:
        """Note one line of a writer. The last one of a killed writer may be cut: then it was not said."""
        try:
            kind, number, *values = json.loads(line)
        except ValueError:
            return
        self.steps += 1
        if kind == "finished":
            self.messages[number] = (values[0], values[1])
            self.flushed.pop(number, None)
        elif kind == "flushed":
            self.flushed[number] = values[0]
        elif kind == "takes back":
            del self.messages[number]


def write(path: Path, chance: random.Random, pipe: int) -> None:
    """Chat for ever, and say so. This is what is killed."""

    def say(*values: object) -> None:
        os.write(pipe, json.dumps(values).encode() + b"\n")

    store = Store.open(path)
    store.interrupted(0)
    while True:
        chats = store.chats(5)
        chat = chance.choice(chats).id if chats and chance.random() < 0.7 else store.create_chat()
        parent = chance.choice([None, *(message.id for message in store.path(chat))])
        text = f"question {chance.random()} " + "words " * chance.randrange(300)
        question = store.add_message(chat, parent, "user", text, durable=True)
        say("finished", question, text, "complete")
        if chance.random() < 0.1:
            say("takes back", question)
            store.take_back(question)
            continue
        reply = store.add_message(chat, question, "assistant", "", state="streaming")
        text = ""
        for number in range(chance.randrange(1, 8)):
            text += f"piece {number} " + "of an answer " * chance.randrange(40)
            store.update_message(reply, content=text, state="streaming")
            say("flushed", reply, text)
        state = chance.choice(["complete", "partial"])
        store.update_message(reply, content=text, state=state, details={"seed": chance.random()})
        say("finished", reply, text, state)
        if chance.random() < 0.2:
            store.select(chance.choice(store.tree(chat)).id)
        if chance.random() < 0.1:
            store.rename(chat, f"renamed {chance.random()}")
        if chance.random() < 0.05:
            store.delete(chat)
            store.undelete(chat)


def live_and_die(path: Path, chance: random.Random, promised: Promised) -> None:
    """Start a writer, kill it after a while, and note what it said until then."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            write(path, random.Random(chance.random()), writer)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(writer)
    said = b""
    deadline = time.monotonic() + chance.random() * LONGEST_LIFE_SECONDS
    while (left := deadline - time.monotonic()) > 0:
        if select.select([reader], [], [], left)[0]:
            piece = os.read(reader, 2**16)
            said += piece
            if not piece:
                break
    os.kill(child, signal.SIGKILL)
    while piece := os.read(reader, 2**16):
        said += piece
    os.close(reader)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the writer ended by itself"
    for line in said.splitlines():
        promised.take(line)


def check(path: Path, promised: Promised) -> None:
    """Look whether everything that was promised is in the store, and whether the store is sound.

    Raises:
        AssertionError: something is missing, or broken.
    """
    with closing(Store.open(path)) as store, closing(connect(path)) as connection:
        assert store.notice is None, store.notice
        # A writer may have died before it could undo a deletion: the chat is then among the deleted ones, and whole.
        numbers = [number for (number,) in connection.execute("SELECT id FROM chats")]
        found = {}
        for number in numbers:
            tree = store.tree(number)
            assert store.chat(number).messages == len(tree)
            assert bool(store.path(number)) == bool(tree)
            found.update({message.id: message for message in tree})
    for number, (text, state) in promised.messages.items():
        assert number in found, f"message {number} is lost"
        assert (found[number].content, found[number].state) == (text, state), f"message {number} is not what it was"
    for number, text in promised.flushed.items():
        assert number in found, f"reply {number} is lost"
        assert found[number].content.startswith(text), f"the end of reply {number} is lost"
    with closing(connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        connection.execute("INSERT INTO search_index (search_index, rank) VALUES ('integrity-check', 1)")


def run(folder: Path, kills: int, seed: int) -> int:
    """Start and kill so many writers on stores in the folder; return how many steps they had said to be done.

    Raises:
        AssertionError: something is missing.
    """
    chance = random.Random(seed)
    steps = 0
    for number in itertools.count(1):
        path, promised = folder / str(number) / "chats.db", Promised()
        for _ in range(min(kills, KILLS_OF_A_STORE)):
            live_and_die(path, chance, promised)
            if chance.random() < 0.5:  # else the next writer meets the store as the killed one left it
                check(path, promised)
        check(path, promised)
        steps += promised.steps
        kills -= min(kills, KILLS_OF_A_STORE)
        if not kills:
            return steps


def main() -> None:
    """Kill as often as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        steps = run(Path(folder), options.kills, options.seed)
    print(f"{options.kills} kills, {steps:,} steps promised, none lost, {time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
