"""What an app does on a device, for the tests of the client."""

import time
import uuid


def typed(device, table):
    """The rows of a table with the types that SQLite stored, in a fixed order."""
    return sorted(repr([(type(value).__name__, value) for value in row])
                  for row in device.rows(f"SELECT * FROM {table}"))


def key(name):
    """The same uuid for the same name, in every run."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, name))


def add_user(device, name, email=None):
    """The app creates a user."""
    device.rows("INSERT INTO users VALUES (?, ?, ?, 1, 1)",
                (key(name), name, email or f"{name}@sync.example"))


def add_post(device, name, author):
    """The app creates a post."""
    device.rows("INSERT INTO posts VALUES (?, ?, ?, '', 1, 1)", (key(name), key(author), name))


def name_of(device, name):
    """What a user is called on a device now."""
    return device.value("SELECT name FROM users WHERE id = ?", (key(name),))


def everything(device):
    """All rows of the example schema with their types."""
    return {table: typed(device, table) for table in (
        "users", "posts", "categories", "teams", "team_members", "files", "file_reviews")}


def wait_for(what, condition, seconds=30):
    """Waits until `condition` holds; a hang becomes a failure that says what did not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.01)


def push_unheard(device, wire, database):
    """The server takes what is pending, and the device dies before the answer."""
    head = "SELECT coalesce(max(head), 0) FROM rowsync.scope"
    before = database.value(head)
    wire.hold()
    running = device.start("push")
    wait_for("the commit of the upload", lambda: database.value(head) > before)
    running.kill()
    running.communicate()
    wire.release()
