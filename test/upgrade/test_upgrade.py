"""A database that was updated from an older version equals a fresh one, and syncs on."""

import json
import pathlib
import re
import shutil
import subprocess

import psycopg2
import pytest

import catalog
from older import make as older
from rig.cluster import pg_config
from rig.place import ROOT

HERE = pathlib.Path(__file__).resolve().parent
MAKEFILE = (ROOT / "pg_extension" / "Makefile").read_text(encoding="utf-8")
PRESENT = re.search(r"^EXTVERSION = (\S+)$", MAKEFILE, re.MULTILINE).group(1)
STEP = (HERE / "older" / f"{older.VERSION}--{PRESENT}.sql").read_text(encoding="utf-8")
STATEMENTS = re.findall(r"^[A-Z][^;]*;$", STEP, re.MULTILINE)
RELEASED = sorted((HERE / "released").glob("rowsync--*.sql"))


class Files:
    """The extension's files in the folder from which the cluster takes them."""

    def __init__(self, cluster, build):
        stage = cluster.place.path / "stage"
        (self.library,) = stage.rglob("rowsync.so")
        (control,) = stage.rglob("rowsync.control")
        self.folder = control.parent
        self.build = build

    def install(self, source, name=None):
        """Puts a file where the server looks, at once: a running backend keeps what it has loaded."""
        target = self.library if source.suffix == ".so" else self.folder / (name or source.name)
        fresh = target.with_name(target.name + ".new")
        shutil.copy(source, fresh)
        fresh.chmod(0o644)
        fresh.rename(target)

    def make(self, version, *arguments, folder=None):
        """Builds a version in a copy of sources and objects, and returns the folder with all of it."""
        folder = self.build / (folder or version)
        shutil.copytree(ROOT / "sql", folder / "sql")
        made = folder / "pg_extension"
        shutil.copytree(ROOT / "pg_extension", made,
                        ignore=shutil.ignore_patterns("rowsync--*", "rowsync.so"))
        # What knows the version.
        (made / "src" / "registry.c").touch()
        done = subprocess.run(
            ["make", "-s", "-C", made, f"EXTVERSION={version}",
             f"PG_CONFIG={pg_config('bindir')}/pg_config", *arguments],
            capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return made


@pytest.fixture(scope="module")
def files(cluster, tmp_path_factory):
    """Version 0.0 and the present one with the update between them, both built."""
    files = Files(cluster, tmp_path_factory.mktemp("build"))
    files.present = files.make(PRESENT, f"UPDATES={HERE / 'older'}", folder="from-older")
    files.older = files.make(older.VERSION)
    present = (files.present / f"rowsync--{PRESENT}.sql").read_text(encoding="utf-8")
    (files.older / f"rowsync--{older.VERSION}.sql").write_text(older.make(present), encoding="utf-8")
    control = (files.older / "rowsync.control").read_text(encoding="utf-8")
    (files.older / "rowsync.control").write_text(control.replace(PRESENT, older.VERSION))
    yield files
    files.install(files.present / "rowsync.so")
    files.install(files.present / "rowsync.control")


def install(files, made, version):
    """Makes a version the one that the server finds."""
    files.install(made / "rowsync.so")
    files.install(made / "rowsync.control")
    files.install(made / f"rowsync--{version}.sql")
    for update in made.glob("rowsync--*--*.sql"):
        files.install(update)


def upload(database, *changes):
    """The statuses of an upload by ann's phone."""
    answer = database.value("SELECT rowsync.upload('ann', 'phone', %s)",
                            json.dumps({"changes": changes}))
    return [(status["status"], status.get("new_server_version"))
            for status in json.loads(answer)["statuses"]]


def note(number, op, pk, version, **payload):
    """One change of app.note."""
    return {"source_change_id": number, "schema": "app", "table": "note", "op": op, "pk": pk,
            "server_version": version, "payload": payload or None}


def use(database):
    """Registers a table and gives it a history."""
    for statement in (
            "CREATE SCHEMA app", "CREATE TABLE app.note (id text PRIMARY KEY, body text)",
            "SELECT rowsync.register_table('app.note')", "SET rowsync.scope = 'bob'",
            "INSERT INTO app.note VALUES ('b1', 'by bob')",
            "SELECT rowsync.grant_gateway('update_gateway')"):
        database.rows(statement)
    assert upload(database, note(1, "INSERT", "a1", 0, body="one"),
                  note(2, "INSERT", "a2", 0, body="two")) == [("applied", 1), ("applied", 2)]
    assert upload(database, note(3, "DELETE", "a2", 2)) == [("applied", 3)]


def contents(database):
    """All that rowsync and the business table hold."""
    return {table: sorted(database.rows(f"SELECT t::text FROM {table} t")) for table in (
        "rowsync.scope", "rowsync.source", "rowsync.synced_table", "rowsync.row_meta",
        "rowsync.change_log", "rowsync.batch", "rowsync.schema_change", "app.note")}


@pytest.fixture(scope="module")
def fresh(cluster, files):
    """What the catalogs say of the present version as CREATE EXTENSION makes it."""
    install(files, files.present, PRESENT)
    database = cluster.database()
    database.rows("CREATE EXTENSION rowsync")
    return catalog.describe(database)


@pytest.fixture
def past(cluster, files):
    """A database with version 0.0, when the files are already those of the present one."""
    install(files, files.older, older.VERSION)
    database = cluster.database()
    database.rows("CREATE EXTENSION rowsync")
    # The session has the old library.
    database.close()
    install(files, files.present, PRESENT)
    return database


def fails(database, statement):
    """The SQLSTATE, message and hint that a statement raises."""
    with pytest.raises(psycopg2.Error) as raised:
        database.rows(statement)
    return raised.value.pgcode, raised.value.diag.message_primary, raised.value.diag.message_hint


def test_a_used_database_is_updated(cluster, files):
    install(files, files.older, older.VERSION)
    if not cluster.database().rows("SELECT FROM pg_roles WHERE rolname = 'update_gateway'"):
        cluster.execute("CREATE ROLE update_gateway")
    database = cluster.database()
    database.rows("CREATE EXTENSION rowsync")
    use(database)

    # The new library is there, the SQL objects are not: a new session says so and does nothing.
    install(files, files.present, PRESENT)
    early = type(database)(cluster, database.name)
    wrong = (f"the rowsync library is version {PRESENT}, but its SQL objects are version "
             f"{older.VERSION}")
    for statement in ("SELECT rowsync.upload('ann', 'phone', '{\"changes\": []}')",
                      "SELECT rowsync.download('ann', 'phone')", "SELECT rowsync.schema_version()",
                      "INSERT INTO app.note VALUES ('x', 'y', 'ann')"):
        code, message, hint = fails(early, statement)
        assert (code, message) == ("RS007", wrong), statement
        assert hint.startswith("Run ALTER EXTENSION rowsync UPDATE"), hint
    # The session from before goes on with what it has loaded.
    assert upload(database, note(3, "DELETE", "a2", 2)) == [("applied", 3)]
    before = contents(database)

    early.close()
    early.rows("ALTER EXTENSION rowsync UPDATE")
    # Now it is the old session that does not fit.
    code, message, hint = fails(database, "SELECT rowsync.upload('ann', 'phone', '{\"changes\": []}')")
    assert (code, message) == ("RS007", f"the rowsync library is version {older.VERSION}, but its "
                               f"SQL objects are version {PRESENT}")
    assert "reconnect" in hint
    assert fails(database, "INSERT INTO app.note VALUES ('x', 'y', 'ann')")[0] == "RS007"

    database.close()
    assert contents(database) == before
    assert database.rows("SELECT * FROM rowsync.verify()") == []
    assert upload(database, note(1, "INSERT", "a1", 0, body="one"),
                  note(4, "UPDATE", "a1", 1, body="three")) == [("applied", 1), ("applied", 4)]
    assert database.value("SELECT has_function_privilege('update_gateway', "
                          "'rowsync.upload(text, text, text)', 'EXECUTE')")
    database.rows("DROP TABLE app.note")
    assert database.rows("SELECT * FROM rowsync.synced_table") == []


def test_an_updated_database_equals_a_fresh_one(past, fresh):
    before = catalog.describe(past)
    past.rows("ALTER EXTENSION rowsync UPDATE")
    assert catalog.describe(past) == fresh
    # The comparison sees each of the differences that there were.
    assert {what for what, _ in before ^ fresh} >= {
        "version", "members", "functions", "relations", "columns", "views", "indexes",
        "constraints", "event triggers", "dumped tables", "types", "first privileges"}


@pytest.mark.parametrize("statement", STATEMENTS)
def test_a_step_that_forgets_something_is_found_out(files, past, fresh, statement):
    """For every statement of the step: without it the update fails, or ends differently."""
    update = files.folder / f"rowsync--{older.VERSION}--{PRESENT}.sql"
    text = update.read_text(encoding="utf-8")
    assert statement in text
    update.write_text(text.replace(statement, "", 1), encoding="utf-8")
    try:
        past.rows("ALTER EXTENSION rowsync UPDATE")
    except psycopg2.Error:
        return
    assert catalog.describe(past) != fresh


def test_released_versions_are_updated(cluster, files, fresh):
    """From the SQL of each as it was released."""
    made = files.make(PRESENT) if RELEASED else None
    for path in RELEASED:
        version = path.stem.partition("--")[2]
        install(files, made, PRESENT)
        files.install(path)
        updated = cluster.database()
        updated.rows(f"CREATE EXTENSION rowsync VERSION '{version}'")
        updated.rows("ALTER EXTENSION rowsync UPDATE")
        assert catalog.describe(updated) == fresh, version


def test_versions_are_in_step():
    """The steps lead from one released version to the next and end at the present one."""
    control = (ROOT / "pg_extension" / "rowsync.control").read_text(encoding="utf-8")
    assert f"default_version = '{PRESENT}'" in control
    steps = [path.stem.split("--") for path in sorted((ROOT / "sql" / "updates").glob("*.sql"))]
    released = {path.stem.partition("--")[2] for path in RELEASED}
    assert {source for source, _ in steps} == released
    targets = {target for _, target in steps}
    assert targets <= released | {PRESENT} and (PRESENT in targets or not steps)
