"""The numbered steps that bring a store of any age to the present format.

A store's number is SQLite's `user_version`. A step is a small function that is never changed once it was released; the
next change is the next function.
"""

import sqlite3
from collections.abc import Callable

APPLICATION = 0x4B6F616C  # "Koal", SQLite's `application_id`: this file is ours


def chats_and_messages(connection: sqlite3.Connection) -> None:
    """1: chats, each with a tree of messages and a head, the last message of the branch that is shown.

    A message's parent and a chat's head belong to the same chat; the foreign keys hold it. `uid` tells chats apart
    across stores. `touched` is when a reply that is being written last gave a sign of life.
    """
    for statement in (
        """CREATE TABLE chats (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            uid TEXT NOT NULL UNIQUE,
            title TEXT NOT NULL,
            created REAL NOT NULL,
            updated REAL NOT NULL,
            pinned INTEGER NOT NULL DEFAULT 0,
            deleted REAL,
            settings TEXT NOT NULL DEFAULT '{}',
            draft TEXT NOT NULL DEFAULT '',
            messages INTEGER NOT NULL DEFAULT 0,
            head INTEGER,
            FOREIGN KEY (id, head) REFERENCES messages (chat_id, id) DEFERRABLE INITIALLY DEFERRED
        )""",
        """CREATE TABLE messages (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            chat_id INTEGER NOT NULL REFERENCES chats (id) ON DELETE CASCADE,
            parent_id INTEGER,
            role TEXT NOT NULL,
            content TEXT NOT NULL,
            state TEXT NOT NULL,
            created REAL NOT NULL,
            touched REAL NOT NULL,
            details TEXT NOT NULL DEFAULT '{}',
            UNIQUE (chat_id, id),
            FOREIGN KEY (chat_id, parent_id) REFERENCES messages (chat_id, id) DEFERRABLE INITIALLY DEFERRED
        )""",
        "CREATE INDEX chats_listed ON chats (pinned DESC, updated DESC, id DESC) WHERE deleted IS NULL",
        "CREATE INDEX chats_deleted ON chats (deleted) WHERE deleted IS NOT NULL",
        "CREATE INDEX messages_children ON messages (chat_id, parent_id)",
        "CREATE INDEX messages_streaming ON messages (touched) WHERE state = 'streaming'",
        "CREATE INDEX messages_asked ON messages (created) WHERE role = 'user'",
        """CREATE TRIGGER message_added AFTER INSERT ON messages BEGIN
            UPDATE chats SET messages = messages + 1 WHERE id = new.chat_id;
        END""",
        """CREATE TRIGGER message_removed AFTER DELETE ON messages BEGIN
            UPDATE chats SET messages = messages - 1 WHERE id = old.chat_id;
        END""",
        f"PRAGMA application_id = {APPLICATION}",
    ):
        connection.execute(statement)


def search_index(connection: sqlite3.Connection) -> None:
    """2: a full-text index of all titles and of everything said, but of replies in the making.

    Rows of messages have the message's number, those of titles the chat's with a minus before it. `words` is ours (see
    `search.words`); it is given bytes, as a text on a damaged disk may be none. The view lets FTS5 rebuild and check
    the index by itself.
    """
    content, title = "words(CAST({}content AS BLOB))", "words(CAST({}title AS BLOB))"
    add = "INSERT INTO search_index (rowid, text)"
    remove = "INSERT INTO search_index (search_index, rowid, text)"
    for statement in (
        f"""CREATE VIEW searchable (id, text) AS
            SELECT id, {content.format("")} FROM messages WHERE state <> 'streaming'
            UNION ALL SELECT -id, {title.format("")} FROM chats""",
        """CREATE VIRTUAL TABLE search_index USING fts5 (
            text, content = 'searchable', content_rowid = 'id', prefix = '1 2',
            tokenize = 'unicode61 remove_diacritics 2'
        )""",
        f"""CREATE TRIGGER message_indexed AFTER INSERT ON messages WHEN new.state <> 'streaming' BEGIN
            {add} VALUES (new.id, {content.format("new.")});
        END""",
        f"""CREATE TRIGGER message_unindexed AFTER DELETE ON messages WHEN old.state <> 'streaming' BEGIN
            {remove} VALUES ('delete', old.id, {content.format("old.")});
        END""",
        f"""CREATE TRIGGER message_reindexed AFTER UPDATE OF content, state ON messages
            WHEN new.content IS NOT old.content OR (new.state = 'streaming') <> (old.state = 'streaming') BEGIN
            {remove} SELECT 'delete', old.id, {content.format("old.")} WHERE old.state <> 'streaming';
            {add} SELECT new.id, {content.format("new.")} WHERE new.state <> 'streaming';
        END""",
        f"""CREATE TRIGGER title_indexed AFTER INSERT ON chats BEGIN
            {add} VALUES (-new.id, {title.format("new.")});
        END""",
        f"""CREATE TRIGGER title_unindexed AFTER DELETE ON chats BEGIN
            {remove} VALUES ('delete', -old.id, {title.format("old.")});
        END""",
        f"""CREATE TRIGGER title_reindexed AFTER UPDATE OF title ON chats WHEN new.title IS NOT old.title BEGIN
            {remove} VALUES ('delete', -old.id, {title.format("old.")});
            {add} VALUES (-new.id, {title.format("new.")});
        END""",
        "INSERT INTO search_index (search_index) VALUES ('rebuild')",
    ):
        connection.execute(statement)


MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (chats_and_messages, search_index)
LATEST = len(MIGRATIONS)


def version(connection: sqlite3.Connection) -> int:
    """Return the number of the store's format, 0 for a new file."""
    return connection.execute("PRAGMA user_version").fetchone()[0]


def migrate(connection: sqlite3.Connection) -> int:
    """Bring the store to the present format, each step whole or not at all; return the format that it had."""
    had = version(connection)
    for number, step in enumerate(MIGRATIONS, 1):
        if number <= had:
            continue
        connection.execute("BEGIN IMMEDIATE")
        try:
            if version(connection) < number:  # another program may have been faster
                step(connection)
                connection.execute(f"PRAGMA user_version = {number}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    return had
