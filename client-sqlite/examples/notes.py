"""A notes app in Python: the library is loaded into SQLite as an extension.

    python3 notes.py my.db setup http://127.0.0.1:8080 ann
    python3 notes.py my.db add "Buy milk"
    ROWSYNC_TOKEN=... python3 notes.py my.db sync
    python3 notes.py my.db list

ROWSYNC_EXTENSION says where the extension is, when it is not where `make install` puts it.
"""

import json
import os
import sqlite3
import sys
import uuid

EXTENSION = os.environ.get("ROWSYNC_EXTENSION", "/usr/lib/rowsync/rowsync")
SCHEMA = """CREATE TABLE IF NOT EXISTS notes (
    id TEXT PRIMARY KEY NOT NULL, body TEXT NOT NULL, done INTEGER NOT NULL DEFAULT 0)"""


def connect(path):
    """Opens the app's database with the extension in it."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.enable_load_extension(True)
    connection.load_extension(EXTENSION)
    connection.enable_load_extension(False)
    return connection


def setup(notes, url, user):
    """Once: the table, what rowsync needs, and whose notes these are."""
    notes.execute(SCHEMA)
    notes.execute("SELECT rowsync_init()")
    notes.execute("SELECT rowsync_track('notes')")
    notes.execute("SELECT rowsync_attach(?, ?)", (url, user))


def add(notes, body):
    """Writes a note; its key is made here, so that no two devices make the same."""
    notes.execute("INSERT INTO notes (id, body) VALUES (?, ?)", (str(uuid.uuid4()), body))


def done(notes, place):
    """Ticks a note off, by its place in the list."""
    notes.execute("""UPDATE notes SET done = 1 WHERE id = (
        SELECT id FROM notes ORDER BY body, id LIMIT 1 OFFSET ?)""", (int(place) - 1,))


def show(notes):
    """Prints the notes with their place in the list."""
    rows = notes.execute("SELECT body, done FROM notes ORDER BY body, id")
    for place, (body, ticked) in enumerate(rows, 1):
        print(f"{place} [{'x' if ticked else ' '}] {body}")


def sync(notes):
    """Up with what was done here, down with what was done elsewhere."""
    notes.execute("SELECT rowsync_token(?)", (os.environ.get("ROWSYNC_TOKEN"),))
    report = json.loads(notes.execute("SELECT rowsync_sync()").fetchone()[0])
    print(f"{report['uploaded']} up, {report['downloaded']} down, {report['rejected']} rejected")


COMMANDS = {"setup": setup, "add": add, "done": done, "list": show, "sync": sync}

if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[2] not in COMMANDS:
        sys.exit("usage: notes.py FILE setup URL USER | add TEXT | done PLACE | list | sync")
    try:
        COMMANDS[sys.argv[2]](connect(sys.argv[1]), *sys.argv[3:])
    except sqlite3.Error as error:
        sys.exit(f"notes: {error}")
