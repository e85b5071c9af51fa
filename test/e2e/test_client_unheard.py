"""An upload that the server has taken while nobody heard the answer, and what may happen to its rows
before it is sent again."""

import pytest
from client_parts import key, push_unheard, wait_for

AGAIN = """DROP VIEW _sync_pending; DROP TABLE categories;
CREATE TABLE categories (id TEXT PRIMARY KEY NOT NULL, parent_id TEXT REFERENCES categories (id)
    ON DELETE %s DEFERRABLE INITIALLY DEFERRED, name TEXT NOT NULL)"""


def add(device, name, parent=None):
    """The app creates a category."""
    device.rows("INSERT INTO categories (id, parent_id, name) VALUES (?, ?, ?)",
                (key(name), parent and key(parent), name))


def alike(database, *devices):
    """Devices and server have the same, and nothing waits."""
    rows = sorted(database.rows("SELECT id::text, parent_id::text, name FROM business.categories"))
    for one in devices:
        assert sorted(one.rows("SELECT id, parent_id, name FROM categories")) == rows
        assert one.rows("SELECT * FROM _sync_rejected") == one.rows("SELECT * FROM _sync_pending") == []
        assert one.run("verify", "--server").returncode == 0
    return rows


def test_a_page_on_its_way_meets_the_row(device, wire, database):
    """Two devices make the same row. On one of them a process has a page with it in hand while what
    another process sent says the same, and is one version later."""
    phone, tablet = device("ann", "phone", url=wire.url), device("ann", "tablet")
    for one in (phone, tablet):
        one.sync()
    add(tablet, "settings")
    tablet.sync()
    add(phone, "settings")
    wire.hold("/sync/download")
    pull = phone.start("pull")
    wait_for("the page", lambda: any(exchange.path.startswith("/sync/download?after=0") and
                         exchange.received["changes"] for exchange in wire.exchanges))
    wire.cut_uploads(1000)
    push = phone.start("push")
    wait_for("the upload", lambda: database.value("SELECT head FROM rowsync.scope") == 2)
    push.kill()
    push.communicate()
    wire.cut_uploads(0)
    wire.release()
    pull.communicate()
    assert phone.value("SELECT count(*) FROM _sync_pending") == 1, "the answer will decide"
    for one in (phone, tablet):
        one.sync()
        assert one.rows("SELECT server_version FROM _sync_version") == [(2,)]
    alike(database, phone, tablet)


@pytest.mark.parametrize("action, row", [("CASCADE", None), ("SET NULL", (None, "moved"))])
def test_a_parent_that_goes_takes_the_row_along(device, wire, database, action, row):
    """A foreign key's action changes what is pending: it is not sent under the number of before."""
    phone, tablet = device("ann", "phone", url=wire.url), device("ann", "tablet")
    for one in (phone, tablet):
        one.app.executescript(AGAIN % action)
        one.status()
    database.rows("ALTER TABLE business.categories DROP CONSTRAINT categories_parent_id_fkey, ADD FOREIGN"
                  f" KEY (parent_id) REFERENCES business.categories ON DELETE {action} DEFERRABLE")
    add(phone, "root")
    if row:
        add(phone, "child")
    phone.sync()
    if row:
        phone.rows("UPDATE categories SET parent_id = ?, name = 'moved' WHERE name = 'child'", (key("root"),))
    else:
        add(phone, "child", "root")
    push_unheard(phone, wire, database)
    tablet.sync()
    tablet.rows("DELETE FROM categories WHERE name = 'root'")
    tablet.sync()
    phone.run("pull")
    assert phone.rows("SELECT parent_id, name FROM categories") == ([row] if row else [])
    for one in (phone, tablet):
        one.sync()
    assert [(parent, name) for _, parent, name in alike(database, phone, tablet)] == ([row] if row else [])


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("other", [True, False])
def test_a_table_that_gets_a_column(device, wire, database, known, other):
    """What is sent again has a column more: it is no other content under the old number, and no
    conflict with what it was itself, whether somebody has changed the row since or not."""
    phone, tablet = device("ann", "phone", url=wire.url), device("ann", "tablet")
    if known:
        add(phone, "known")
        phone.sync()
        phone.rows("UPDATE categories SET name = 'edited'")
    add(phone, "new")
    push_unheard(phone, wire, database)
    if other:
        tablet.sync()
        tablet.rows("UPDATE categories SET name = name || '!' WHERE name = 'new'")
        tablet.sync()
    database.rows("ALTER TABLE business.categories ADD COLUMN priority integer DEFAULT 0")
    phone.rows("ALTER TABLE categories ADD COLUMN priority INTEGER DEFAULT 0")
    report = phone.sync()
    assert report["rejected"] == 0 and report["statuses"].get("conflict", 0) == other, report
    tablet.sync()
    names = sorted(name for _, _, name in alike(database, phone, tablet))
    assert names == ["edited"] * known + ["new!" if other else "new"]
    assert sorted(phone.rows("SELECT name, priority FROM categories")) == sorted(
        database.rows("SELECT name, priority FROM business.categories"))
    assert other or phone.rows("SELECT * FROM _sync_overwritten") == []


@pytest.mark.parametrize("policy", ["server", "client"])
def test_an_edit_of_a_table_that_gets_a_column(device, wire, database, policy):
    """It has the content that it had, and its number: somebody else's edit on top of it stands."""
    phone, tablet = device("ann", "phone", url=wire.url), device("ann", "tablet")
    phone.run("track", "categories", "--schema", "business", "--policy", policy)
    add(phone, "one")
    phone.sync()
    phone.rows("UPDATE categories SET name = 'edited'")
    push_unheard(phone, wire, database)
    tablet.sync()
    tablet.rows("UPDATE categories SET name = name || '!'")
    tablet.sync()
    database.rows("ALTER TABLE business.categories ADD COLUMN priority integer DEFAULT 0")
    phone.rows("ALTER TABLE categories ADD COLUMN priority INTEGER DEFAULT 7")
    assert phone.sync()["overwritten"] == 0
    assert [name for _, _, name in alike(database, phone, tablet)] == ["edited!"]
    assert phone.rows("SELECT priority FROM categories") == [(0,)]


@pytest.mark.parametrize("edit", ["insert", "update"])
def test_the_server_deletes_the_row_and_the_device_hydrates(device, wire, database, edit):
    """The answer to what is sent again tells of the time before."""
    phone = device("ann", "phone", url=wire.url)
    phone.sync()
    add(phone, "stays")
    if edit == "update":
        add(phone, "goes")
    phone.sync()
    if edit == "update":
        phone.rows("UPDATE categories SET name = 'edited' WHERE id = ?", (key("goes"),))
    else:
        add(phone, "goes")
    push_unheard(phone, wire, database)
    database.rows("DELETE FROM business.categories WHERE id = %s", key("goes"))
    database.rows("UPDATE business.categories SET name = 'later'")
    phone.run("hydrate")
    phone.sync()
    assert alike(database, phone) == [(key("stays"), None, "later")]
