"""Random rows, and random SQL by somebody who knows nothing of syncing."""

import psycopg2

from mirror import expect
from schema import quote


def make_value(rng, column):
    """A value for an ordinary column."""
    if not column.notnull and rng.random() < 0.2:
        return None
    if column.unique:
        return column.kind.few(rng)
    if column.least is not None:
        return rng.randrange(-50 if rng.random() < 0.95 else -60, 50)
    return rng.choice(["Mixed", "lower", "UPPER Ä"]) if column.lowered else column.kind.make(rng)


def make_key(rng, table):
    """A key that other changes may hit too."""
    if rng.random() < 0.03:
        return tuple(table.column(name).kind.make(rng) for name in table.keys)
    return tuple(table.column(name).kind.few(rng) for name in table.keys)


def make_row(rng, table, key, parents):
    """All columns but generated ones. `parents(number)` is a list of keys to refer to."""
    row = {column.name: make_value(rng, column) for column in table.columns if not column.length_of}
    row.update(zip(table.keys, key))
    for reference in table.references:
        notnull = table.column(reference.columns[0]).notnull
        choice = parents(reference.parent)
        if not notnull and (rng.random() < 0.35 or not choice):
            values = [None] * len(reference.columns)
        elif choice and rng.random() < 0.93:
            values = rng.choice(choice)
        else:
            values = [table.column(name).kind.few(rng) for name in reference.columns]
        row.update(zip(reference.columns, values))
    return row


class Writer:
    """One SQL transaction by somebody, and what it must leave in the log."""

    def __init__(self, world):
        self.world = world
        self.rng = world.rng
        self.session = world.session
        self.tables = world.tables

    def run(self):
        """Runs it and checks that the log has each changed row exactly once."""
        before = dict(self.world.mirror.state)
        level = self.rng.choices(["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"],
                                 [7, 1, 1])[0]
        self.session.execute(f"BEGIN ISOLATION LEVEL {level}")
        self.session.execute("SELECT set_config('rowsync.scope', %s, true)",
                             self.rng.choice(self.world.users))
        try:
            self._block(0)
            self._end()
        except psycopg2.Error as error:
            self.session.note(f"-- {error}")
            expect(error.pgcode is not None and error.pgcode[:2] != "XX", "SQL raised", error)
            self.session.execute("ROLLBACK")
        self._check(before, self.world.mirror.refresh())

    def _end(self):
        """Commits or not, now and then in two phases."""
        if self.rng.random() < 0.15:
            self.session.execute("PREPARE TRANSACTION 'writer'")
            self.session.execute(self.rng.choice(["COMMIT", "COMMIT", "ROLLBACK"])
                                 + " PREPARED 'writer'")
        else:
            self.session.execute("ROLLBACK" if self.rng.random() < 0.1 else "COMMIT")

    def _block(self, depth):
        """Some statements, each of which may fail without the others."""
        for _ in range(self.rng.randrange(1, 4)):
            name = f"s{depth}"
            self.session.execute(f"SAVEPOINT {name}")
            try:
                if depth < 2 and self.rng.random() < 0.25:
                    self._block(depth + 1)
                else:
                    self._statement()
                failed = False
            except psycopg2.Error as error:
                self.session.note(f"-- {error}")
                expect(error.pgcode is not None and error.pgcode[:2] != "XX", "SQL raised", error)
                failed = True
            if failed or self.rng.random() < 0.2:
                self.session.execute(f"ROLLBACK TO {name}")
            if self.rng.random() < 0.7:
                self.session.execute(f"RELEASE {name}")

    def _statement(self):
        table = self.rng.choice(self.tables)
        kind = self.rng.choices(
            [self._insert, self._update, self._delete, self._change_key, self._change_scope,
             self._truncate, self._touch, self._replace, self._merge],
            [6, 5, 3, 2, 1, 0.15, 1, 1, 1])[0]
        kind(table)

    def _keys(self, table):
        return [key for (number, key) in self.world.mirror.state if number == table.number]

    def _insert(self, table, conflict=""):
        rows = []
        scopes = self.world.users + ([None] if table.scope_null and table.scope != "_rowsync_scope"
                                     else [])
        names = [column.name for column in table.columns if not column.length_of]
        for _ in range(self.rng.randrange(1, 5)):
            scope = self.rng.choice(scopes)
            row = make_row(self.rng, table, make_key(self.rng, table),
                           lambda number: self.world.live_keys(scope, number))
            rows.append([self._bind(table, name, row[name]) for name in names] + [scope])
        cast = ", ".join([f"%s::{table.column(name).kind.type}" for name in names]
                         + [f"%s::{table.scope_type}"])
        lines = ", ".join([f"({cast})"] * len(rows))
        self.session.execute(
            f"INSERT INTO {table.label} ({', '.join(map(quote, names + [table.scope]))}) "
            f"VALUES {lines} {conflict}", *[value for row in rows for value in row])

    def _replace(self, table):
        names = [column.name for column in table.columns
                 if not column.length_of and column.name not in table.keys]
        keys = ", ".join(map(quote, table.keys))
        sets = ", ".join(f"{quote(name)} = excluded.{quote(name)}" for name in names)
        self._insert(table, f"ON CONFLICT ({keys}) DO UPDATE SET {sets}" if names and
                     self.rng.random() < 0.7 else "ON CONFLICT DO NOTHING")

    def _merge(self, table):
        """Deletes, updates and inserts in one statement."""
        key = make_key(self.rng, table)
        row = make_row(self.rng, table, key, lambda number: self.world.live_keys(None, number))
        names = [column.name for column in table.columns if not column.length_of]
        match = " AND ".join(f"t.{quote(name)} = v.{quote(name)}" for name in table.keys)
        ordinary = [name for name in names if name not in table.keys]
        sets = ", ".join(f"{quote(name)} = v.{quote(name)}" for name in ordinary)
        columns = ", ".join(map(quote, names + [table.scope]))
        self.session.execute(
            f"MERGE INTO {table.label} AS t USING (SELECT "
            + ", ".join(f"%s::{table.column(name).kind.type} AS {quote(name)}" for name in names)
            + f", %s::{table.scope_type} AS {quote(table.scope)}, %s AS gone) AS v ON {match} "
            "WHEN MATCHED AND v.gone THEN DELETE "
            + (f"WHEN MATCHED THEN UPDATE SET {sets} " if ordinary else "")
            + f"WHEN NOT MATCHED THEN INSERT ({columns}) VALUES ("
            + ", ".join(f"v.{quote(name)}" for name in names + [table.scope]) + ")",
            *[self._bind(table, name, row[name]) for name in names],
            self.rng.choice(self.world.users), self.rng.random() < 0.3)

    def _bind(self, table, name, value):
        return None if value is None else table.column(name).kind.literal(value)

    def _some(self, table):
        """A WHERE clause for a few rows, and its arguments."""
        keys = self._keys(table)
        chosen = self.rng.sample(keys, min(len(keys), self.rng.randrange(1, 4)))
        if not chosen:
            return "false", []
        match = "(" + " AND ".join(f"{quote(name)} = %s::{table.column(name).kind.type}"
                                   for name in table.keys) + ")"
        return " OR ".join([match] * len(chosen)), [
            self._bind(table, name, value) for key in chosen for name, value in zip(table.keys, key)]

    def _update(self, table):
        where, arguments = self._some(table)
        row = make_row(self.rng, table, make_key(self.rng, table), lambda number: [
            key for (n, key) in self.world.mirror.state if n == number])
        names = [name for name in row if name not in table.keys]
        if not names:
            return
        names = self.rng.sample(names, self.rng.randrange(1, min(3, len(names)) + 1))
        self.session.execute(
            f"UPDATE {table.label} SET " + ", ".join(
                f"{quote(name)} = %s::{table.column(name).kind.type}" for name in names)
            + f" WHERE {where}",
            *[self._bind(table, name, row[name]) for name in names], *arguments)

    def _touch(self, table):
        name = quote(table.scope)
        self.session.execute(f"UPDATE {table.label} SET {name} = {name}")

    def _delete(self, table):
        where, arguments = self._some(table)
        self.session.execute(f"DELETE FROM {table.label} WHERE {where}", *arguments)

    def _truncate(self, table):
        self.session.execute(f"TRUNCATE {table.label} CASCADE")

    def _change_key(self, table):
        where, arguments = self._some(table)
        key = make_key(self.rng, table)
        self.session.execute(
            f"UPDATE {table.label} SET " + ", ".join(
                f"{quote(name)} = %s::{table.column(name).kind.type}" for name in table.keys)
            + f" WHERE {where}",
            *[self._bind(table, name, value) for name, value in zip(table.keys, key)], *arguments)

    def _change_scope(self, table):
        where, arguments = self._some(table)
        self.session.execute(
            f"UPDATE {table.label} SET {quote(table.scope)} = %s::{table.scope_type} WHERE {where}",
            self.rng.choice(self.world.users), *arguments)

    def _check(self, before, news):
        """Each row that changed has one new entry, in each scope it was or is in."""
        after = self.world.mirror.state
        found = {}
        for scope, entries in news.items():
            for entry in entries:
                expect(entry.source == 0 and entry.change_id == 0, "SQL is logged as", entry)
                expect((scope, entry.row_id) not in found, "two entries in one transaction:", entry,
                       found.get((scope, entry.row_id)))
                found[scope, entry.row_id] = entry
        for row_id in {**before, **after}:
            old, new = before.get(row_id, (None, None)), after.get(row_id, (None, None))
            for scope in {old[0], new[0]} - {None}:
                was = old[1] if old[0] == scope else None
                now = new[1] if new[0] == scope else None
                entry = found.pop((scope, row_id), None)
                expect(was == now or entry is not None, "no entry for", row_id, "in", scope, ":", was,
                       "->", now)
                expect(entry is None or (entry.op == "D") == (now is None), "logged as", entry, ":",
                       was, "->", now)
        expect(not found, "entries of rows that nobody wrote:", found)
