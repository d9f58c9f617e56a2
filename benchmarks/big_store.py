"""A store as full as years make it, for benchmarks: titles, answers of a few sentences, words as rare as real ones.

python -m benchmarks.big_store FILE [--chats 10000] [--messages 20]
"""

import argparse
import json
import random
import sqlite3
import time
from itertools import accumulate
from pathlib import Path

from tui.store import migrations
from tui.store.search import words

CHATS, MESSAGES = 10_000, 20
VOCABULARY, SENTENCES = 20_000, 6_000
SYLLABLES = [
    *"aeiouwyz",
    *(consonant + vowel for consonant in "bdfghjklmnprst" for vowel in "aeiou"),
    "ing",
    "con",
    "qui",
]
SECONDS_BETWEEN_CHATS, SECONDS_BETWEEN_MESSAGES = 7_200, 40
NEEDLE = "quokkaneedle"  # said once, in the middle of the oldest tenth


def build(path: Path, chats: int = CHATS, messages: int = MESSAGES, seed: int = 0) -> None:
    """Make a store at `path`, which must not be there, with so many chats of so many messages each.

    The messages are rows as koala-tui would have written them; the search index is made at the end, in one go.
    """
    if path.exists():
        raise FileExistsError(path)
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.create_function("words", 1, words, deterministic=True)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        migrations.MIGRATIONS[0](connection)
        _fill(connection, chats, messages, random.Random(seed))
        connection.execute("PRAGMA user_version = 1")
        connection.execute("COMMIT")
        migrations.migrate(connection)
    finally:
        connection.close()


def _fill(connection: sqlite3.Connection, chats: int, messages: int, chance: random.Random) -> None:
    sentences = _sentences(chance)
    begun = time.time() - chats * SECONDS_BETWEEN_CHATS
    details = json.dumps({"model": "koala-7b", "quantization": "Q4_K_M", "tokens_per_second": 12.5, "seed": 1234567})
    needle = chats // 20 * messages + messages // 2 + 1

    def rows():
        number = 0
        for chat in range(1, chats + 1):
            for place in range(messages):
                number += 1
                role = ("user", "assistant")[place % 2]
                text = " ".join(
                    chance.choices(sentences, k=chance.randint(1, 3) if role == "user" else chance.randint(2, 9))
                )
                if number == needle:
                    text += f" {NEEDLE}"
                at = begun + chat * SECONDS_BETWEEN_CHATS + place * SECONDS_BETWEEN_MESSAGES
                parent = number - 1 if place else None
                yield number, chat, parent, role, text, "complete", at, at, details if role == "assistant" else "{}"

    connection.executemany(
        "INSERT INTO chats (id, uid, title, created, updated, pinned, head) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            (
                chat,
                f"{chance.getrandbits(128):032x}",
                chance.choice(sentences)[:60],
                begun + chat * SECONDS_BETWEEN_CHATS,
                begun + chat * SECONDS_BETWEEN_CHATS + messages * SECONDS_BETWEEN_MESSAGES,
                int(chat % 2_000 == 0),
                chat * messages if messages else None,
            )
            for chat in range(1, chats + 1)
        ),
    )
    connection.executemany("INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows())


def _sentences(chance: random.Random) -> list[str]:
    vocabulary = ["".join(chance.choices(SYLLABLES, k=chance.randint(1, 4))) for _ in range(VOCABULARY)]
    zipf = list(accumulate(1 / (rank + 5) for rank in range(VOCABULARY)))
    return [
        " ".join(chance.choices(vocabulary, cum_weights=zipf, k=chance.randint(6, 18))).capitalize() + "."
        for _ in range(SENTENCES)
    ]


def main() -> None:
    """Make the store that the command line asks for, and say how long that took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--chats", type=int, default=CHATS)
    parser.add_argument("--messages", type=int, default=MESSAGES)
    options = parser.parse_args()
    begun = time.perf_counter()
    build(options.file, options.chats, options.messages)
    size = options.file.stat().st_size / 2**20
    print(
        f"{options.chats:,} chats, {options.chats * options.messages:,} messages, {size:.0f} MiB "
        f"in {time.perf_counter() - begun:.1f} s"
    )


if __name__ == "__main__":
    main()
