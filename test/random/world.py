"""One random world: a schema, users with devices, and what happens to them, round by round."""

import hashlib
import json
import random

import psycopg2

import kinds
import schema
from mirror import Mirror, expect, same
from upload import Change, Judge, encode
from writer import Writer, make_key, make_row

ROUNDS = 25  # of one world


class Session:
    """The connection; keeps what was run, so that a failure can be replayed in psql."""

    def __init__(self, database):
        self.connection = database.connect()
        self.cursor = self.connection.cursor()
        self.script = []

    def execute(self, sql, *values):
        """Runs a statement and notes it."""
        text = self.cursor.mogrify(sql, values or None).decode()
        self.note(text + ";")
        self.cursor.execute(text)

    def rows(self, sql, *values):
        """Reads; not noted."""
        self.cursor.execute(sql, values or None)
        return self.cursor.fetchall()

    def value(self, sql, *values):
        """Runs a statement that gives one value."""
        self.execute(sql, *values)
        return self.cursor.fetchone()[0]

    def attempt(self, sql, values):
        """Whether one row would be written: None, or (SQLSTATE, constraint); undone again."""
        self.cursor.execute("BEGIN")
        try:
            self.cursor.execute(sql, values)
            written = self.cursor.rowcount
            self.cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
            return None if written == 1 else ("none", None)
        except psycopg2.Error as error:
            return error.pgcode, error.diag.constraint_name
        finally:
            self.cursor.execute("ROLLBACK")

    def note(self, text):
        self.script.append(text)

    def close(self):
        self.connection.close()


class Source:
    """A device. A faithful one keeps a replica as an app would; the others send what they like."""

    def __init__(self, user, name, faithful):
        self.user = user
        self.name = name
        self.faithful = faithful
        self.next_id = 1
        self.known = {}  # change id -> the answer `applied`
        self.sent = []  # changes sent so far
        self.cursor = 0
        self.rows = {}  # row_id -> (row, version)
        self.gone = {}  # row_id -> version of the tombstone
        self.pending = []  # sent, but the answer was lost
        self._number = None

    def number(self, judge):
        """rowsync's source_no."""
        if self._number is None:
            rows = judge.world.session.rows(
                "SELECT source_no FROM rowsync.source JOIN rowsync.scope USING (scope_id) "
                "WHERE name = %s AND source_id = %s", self.user, self.name)
            self._number = rows[0][0] if rows else None
        return self._number

    def new_id(self):
        self.next_id += 1
        return self.next_id - 1

    def take(self, row_id, row, version):
        """The server's state of a row."""
        if row is None:
            self.rows.pop(row_id, None)
            self.gone[row_id] = version
        else:
            self.gone.pop(row_id, None)
            self.rows[row_id] = (row, version)


class World:
    """Everything that one seed and one number make."""

    def __init__(self, database, seed, number):
        self.rng = random.Random(f"{seed}/{number}")
        self.session = Session(database)
        self.tables = schema.make(self.rng)
        self.users = [kinds.UUID.make(self.rng) for _ in range(self.rng.randrange(1, 4))]
        self.sources = [Source(user, name, self.rng.random() < 0.5)
                        for user in self.users for name in ("phone", "tablet", "web")]
        self.names = 0
        self._create()
        self.mirror = Mirror(self.session, self.tables)
        self.mirror.refresh()

    def _create(self):
        for statement in schema.statements(self.tables):
            self.session.execute(statement)
        order = list(self.tables)
        self.rng.shuffle(order)
        for table in order:
            table.id = self.session.value(
                "SELECT rowsync.register_table(%s::regclass, %s)", table.label,
                None if table.scope == "_rowsync_scope" else table.scope)
        self.key_names = {table.number: self.session.rows(
            "SELECT array_agg(conname::text) FROM pg_constraint WHERE contype = 'p' AND conrelid IN "
            "(SELECT relid FROM pg_partition_tree(%s::regclass) UNION SELECT %s::regclass)",
            table.label, table.label)[0][0] for table in self.tables}

    def live_keys(self, scope, number):
        """Keys of the rows of a table in a scope."""
        return [key for (n, key), (owner, _) in self.mirror.state.items()
                if n == number and owner == scope]

    def play(self, rounds):
        """Plays so many rounds, then lets every device catch up. Returns nothing, or raises."""
        for _ in range(rounds):
            self.act()
            if self.rng.random() < 0.6:
                self.download(self.rng.choice(self.sources), self.rng.random() < 0.4)
        for source in self.sources:
            self.download(source, False)
        for user in self.users:
            self.download(Source(user, "new", True), False)
            self._check_reading(user)

    def act(self):
        """One upload or one transaction."""
        if self.rng.random() < 0.04:
            self.prune()
        elif self.rng.random() < 0.3:
            Writer(self).run()
        else:
            source = self.rng.choice(self.sources)
            self.edit(source) if source.faithful else self.meddle(source)

    # ---------------------------------------------------------------- uploads

    def upload(self, source, changes, atomic=False):
        """Sends changes and judges the answer."""
        body = '{"last_server_seq_seen":%d,%s"changes":[%s]}' % (
            source.cursor, '"atomic":true,' if atomic else "",
            ",".join(change.text for change in changes))
        judge = Judge(self, source, changes, atomic, None)
        judge.answer = json.loads(self.session.value(
            "SELECT rowsync.upload(%s, %s, %s)", source.user, source.name, body))
        judge.judge()

    def edit(self, source):
        """A faithful device uploads its edits, and takes over the answer unless it is lost."""
        changes = source.pending + self._edits(source)
        if not changes:
            return
        self.rng.shuffle(changes)
        self.upload(source, changes, self.rng.random() < 0.1)
        if self.rng.random() < 0.2:
            source.pending = changes
            return
        source.pending = []
        for change in sorted(changes, key=lambda change: change.id):
            self._settle(source, change)

    def _edits(self, source):
        """Edits of rows that the device has, or makes; one for each row, on the version it knows."""
        changes = {}
        taken = {change.row_id for change in source.pending}
        for _ in range(self.rng.randrange(1, 12)):
            table = self.rng.choice(self.tables)
            here = [row_id for row_id in source.rows if row_id[0] == table.number]
            op = self.rng.choice("IIUUUD")
            if op != "I" and not here:
                continue
            row_id = (table.number, make_key(self.rng, table)) if op == "I" else self.rng.choice(here)
            if row_id in taken or row_id in changes or (op == "I" and row_id in source.rows):
                continue

            def parents(number):
                return [key for n, key in list(source.rows) + list(changes) if n == number]
            change = Change(source.new_id(), op, table, row_id[1],
                            source.rows[row_id][1] if op != "I" else source.gone.get(row_id, 0), {})
            if op != "D":
                change.payload = make_row(self.rng, table, row_id[1], parents)
            if op == "U":
                self._keep_some(table, change, 0.4)
            changes[row_id] = encode(change, self.rng)
        return list(changes.values())

    def _keep_some(self, table, change, share):
        """Leaves columns out of a payload."""
        for name in list(change.payload):
            if self.rng.random() > share:
                del change.payload[name]

    def _settle(self, source, change):
        """Takes over the answer to a change."""
        answer = change.answer
        if answer["status"] == "invalid":
            return
        if answer["status"] == "applied" and change.op == "D":
            source.take(change.row_id, None, answer["new_server_version"])
            return
        if "server_row" in answer:
            server = answer["server_row"]
            row = None if server["deleted"] else self.mirror.parse_row(change.table,
                                                                       server["payload"])
            source.take(change.row_id, row, server["server_version"])
            return
        row = dict.fromkeys(column.name for column in change.table.columns)
        row.update(source.rows.get(change.row_id, ({}, 0))[0])
        row.update(change.payload)
        row.update(zip(change.table.keys, change.key))
        source.take(change.row_id, row, answer["new_server_version"])

    def meddle(self, source):
        """Anything: right and stale versions, repeated ids, bad values, several changes of a row."""
        rng = self.rng
        changes = []
        several = rng.random() < 0.4
        for _ in range(rng.choice([1, 2, 3, 5, 8, 20])):
            if source.sent and rng.random() < 0.08:
                changes.append(self._again(rng.choice(source.sent)))
                continue
            if changes and rng.random() < 0.03:
                changes.append(self._again(rng.choice(changes)))
                continue
            change = self._any_change(source, changes)
            if source.sent and change.bad is None and rng.random() < 0.04:
                self._give_id(change, rng.choice(source.sent).id)
            if not several and any(change.row_id == other.row_id for other in changes):
                continue
            changes.append(change)
        if not changes:
            return
        if rng.random() < 0.5:
            changes.reverse()
        self.upload(source, changes, rng.random() < 0.1)
        source.sent += [change for change in changes if change.answer["status"] == "applied"][:3]

    def _again(self, change):
        """The same change, to be sent once more."""
        return Change(change.id, change.op, change.table, change.key, change.base, change.payload,
                      change.text, change.bad, change.reused)

    def _give_id(self, change, number):
        """Gives a change the number of another one, as a device put back to an older state does."""
        change.text = change.text.replace(f'"source_change_id":{change.id}',
                                          f'"source_change_id":{number}')
        change.id = number
        change.reused = True

    def _any_change(self, source, changes):
        rng = self.rng
        table = rng.choice(self.tables)
        known = [key for number, key in self.mirror.chains.get(source.user, {})
                 if number == table.number]
        others = [key for number, key in self.mirror.state if number == table.number]
        batch = [change.key for change in changes if change.table is table]
        draw = rng.random()
        if known and draw < 0.5:
            key = rng.choice(known)
        elif others and draw < 0.6:
            key = rng.choice(others)
        elif batch and draw < 0.75:
            key = rng.choice(batch)
        else:
            key = make_key(rng, table)
        last = self.mirror.last(source.user, (table.number, key))
        change = Change(source.new_id(), rng.choice("IIUUUDD"), table, key,
                        self._any_version(source, table, key, last), {})
        if change.op != "D":
            def parents(number):
                if rng.random() < 0.1:
                    return [key for n, key in self.mirror.state if n == number]
                return self.live_keys(source.user, number) + [
                    other.key for other in changes if other.table.number == number] * 2
            change.payload = make_row(rng, table, key, parents)
            if last and last.row and rng.random() < 0.15:
                change.payload = {name: value for name, value in last.row.items()
                                  if not table.column(name).length_of}
            if change.op == "U":
                self._keep_some(table, change, rng.choice([0, 0.3, 0.7]))
            elif rng.random() < 0.2:
                self._keep_some(table, change, 0.7)
            if rng.random() < 0.5:
                for name in table.keys:
                    change.payload.pop(name, None)
        if rng.random() < 0.08:
            return self._spoil(change)
        extra = {}
        if change.op != "D" and rng.random() < 0.1:
            # The scope is the server's: whatever is sent for it changes nothing.
            extra["payload"] = {**{name: None if value is None else
                                   table.column(name).kind.send(value, rng)
                                   for name, value in change.payload.items()},
                                table.scope: rng.choice(self.users + [None, 7])}
        return encode(change, rng, extra)

    def _any_version(self, source, table, key, last):
        rng = self.rng
        chain = self.mirror.chains.get(source.user, {}).get((table.number, key), [])
        return rng.choices(
            [last.seq if last else 0, 0, rng.choice(chain).seq if chain else 0,
             rng.randrange(self.mirror.head(source.user) + 1), 1 << 40], [60, 12, 15, 5, 1])[0]

    def _spoil(self, change):
        """Makes a change one that must be refused, whatever the server's state."""
        rng = self.rng
        table = change.table
        change.bad = "bad_payload"
        columns = [column for column in table.columns if not column.length_of]
        column = rng.choice(columns)
        payload = {name: None if value is None else table.column(name).kind.send(value, rng)
                   for name, value in change.payload.items()}
        ways = ["table", "op", "pk", "no pk", "version"]
        if change.op != "D":
            ways += ["column", "value", "value", "value", "key", "payload", "zero"]
        way = rng.choice(ways)
        extra = {}
        if way == "table":
            change.bad = "unregistered_table"
            extra = rng.choice([{"table": "nowhere"}, {"schema": "rowsync", "table": "scope"},
                                {"schema": "pg_catalog", "table": "pg_class"}, {"table": ""},
                                {"schema": "x" * 80}, {"table": table.name + "'; --"}])
        elif way == "op":
            extra = {"op": rng.choice(["UPSERT", "insert", 1, None])}
        elif way == "pk":
            extra = {"pk": rng.choice([None, 7, {}, True, [1, 2, 3, 4]] + (
                ["[1", "[]", "x"] if len(table.keys) > 1 else []))}
        elif way == "no pk":
            text = json.loads(encode(change, rng).text)
            del text["pk"]
            change.text = kinds.dump(text)
            return change
        elif way == "version":
            extra = {"server_version": rng.choice([-1, "1", None, 1.5, [1]])}
        elif way == "column":
            extra = {"payload": {**payload, "no such column": 1}}
        elif way == "value":
            extra = {"payload": {**payload, column.name: column.kind.wrong(rng)}}
        elif way == "key":
            name = rng.choice(table.keys)
            kind = table.column(name).kind
            other = kind.few(rng)
            if other == change.key[table.keys.index(name)]:
                other = None
            extra = {"payload": {**payload, name: other}}
        elif way == "payload":
            extra = {"payload": rng.choice([None, [], "x", 3])}
        else:
            extra = {"payload": {**payload, column.name: kinds.Raw('"a\\u0000b"')}}
        return encode(change, rng, extra)

    # ---------------------------------------------------------------- keeping

    def prune(self):
        """Removes all history that the devices have read, or, now and then, that anybody has."""
        for scope, floor in self.session.rows(
                "SELECT scope, floor FROM rowsync.prune('0', %s, %s)",
                self.rng.choice(["1 day", "1 day", "0"]), self.rng.choice(self.users + [None])):
            self.session.note(f"SELECT * FROM rowsync.prune('0', '0', '{scope}'); -- to {floor}")
            self.mirror.prune(scope, floor)
        self.mirror.refresh()

    # ---------------------------------------------------------------- downloads

    def download(self, source, interrupted):
        """Reads a window page by page, others writing in between, and compares what it gives."""
        if source.pending:
            return
        rng = self.rng
        include_self = not source.faithful
        until = None
        after = source.cursor
        while True:
            limit = rng.choice([1, 2, 7, 100, 1000])
            if after < self.mirror.floor.get(source.user, 0):
                self._hydrate(source, after)
                return
            page = json.loads(self.session.value(
                "SELECT rowsync.download(%s, %s, %s, %s, %s, %s)", source.user, source.name, after,
                limit, until, include_self))
            until = page["window_until"] if until is None else until
            self._check_page(source, page, after, limit, until, include_self)
            for change in page["changes"]:
                table = self._table_named(change)
                row_id = (table.number, self._key_of(table, change["pk"]))
                source.take(row_id, None if change["deleted"] else
                            self.mirror.parse_row(table, change["payload"]), change["server_version"])
            after = page["next_after"]
            if not page["has_more"]:
                break
            if interrupted and rng.random() < 0.5:
                other = rng.choice([s for s in self.sources if s is not source] or [None])
                if other is None or rng.random() < 0.5:
                    Writer(self).run()
                else:
                    self.edit(other) if other.faithful else self.meddle(other)
        source.cursor = after
        expect(after == until, "the window ends at", after, "not at", until)
        same(source.rows, self.mirror.state_at(source.user, until),
             f"the replica of {source.name} of {source.user} at {until}")

    def _hydrate(self, source, after):
        """A device that is behind the floor is told so, and begins anew with a snapshot."""
        try:
            self.session.value("SELECT rowsync.download(%s, %s, %s)", source.user, source.name, after)
            expect(False, "download from", after, "below the floor was not refused")
        except psycopg2.Error as error:
            expect(error.pgcode == "RS003", "download below the floor raised", error)
        source.rows = self._snapshot(source.user)
        source.gone = {}
        source.cursor = self.mirror.head(source.user)

    def _check_page(self, source, page, after, limit, until, include_self):
        changes = page["changes"]
        expect(page["window_until"] == until and page["floor"] == self.mirror.floor.get(
            source.user, 0), "page says", page["window_until"],
               page["floor"])
        expect(len(changes) <= limit and after <= page["next_after"] <= until and
               page["has_more"] == (page["next_after"] < until), "page of", len(changes), "says",
               page["has_more"], page["next_after"])
        expect(page["next_after"] > after or not page["has_more"], "the page does not move on")
        history = self.mirror.history[source.user] if source.user in self.mirror.history else []
        previous = after
        for change in changes:
            seq = change["server_id"]
            expect(previous < seq <= page["next_after"], "server_id", seq, "after", previous)
            previous = seq
            entry = history[seq - 1]
            table = self._table_named(change)
            row_id = (table.number, self._key_of(table, change["pk"]))
            row = None if change["payload"] is None else self.mirror.parse_row(table,
                                                                               change["payload"])
            expect(row_id == entry.row_id and change["server_version"] == seq and
                   change["op"][0] == entry.op and change["deleted"] == (entry.op == "D") and
                   change["source_change_id"] == entry.change_id and
                   (change["source_id"] == "") == (entry.source == 0) and
                   row == (None if entry.op == "D" else entry.row), "page has", change, "log has",
                   entry)
            expect(include_self or change["source_id"] != source.name,
                   "the page has the caller's own", change)

    def _table_named(self, change):
        return next(table for table in self.tables
                    if (table.schema, table.name) == (change["schema"], change["table"]))

    def _key_of(self, table, pk):
        columns = [table.column(name).kind for name in table.keys]
        if len(columns) > 1:
            expect(isinstance(pk, list), "pk of", table.label, "is", pk)
            return tuple(kind.canonical(part) for kind, part in zip(columns, pk))
        expect(isinstance(pk, str), "pk of", table.label, "is", pk)
        return (columns[0].parse(pk),)

    # ---------------------------------------------------------------- other ways to read

    def _check_reading(self, user):
        """verify finds nothing; digest and snapshot tell what the log tells."""
        found = self.session.rows("SELECT * FROM rowsync.verify(%s)", user)
        expect(not found, "rowsync.verify says", found)
        head, floor = self.mirror.head(user), self.mirror.floor.get(user, 0)
        for at in (head, self.rng.randrange(floor, head + 1)):
            rows = self.mirror.state_at(user, at)
            answer = json.loads(self.session.value("SELECT rowsync.digest(%s, %s)", user, at))
            expect(answer == {"at": at, "rows": len(rows), "digest": self._digest(rows)},
                   "the digest of", user, "at", at, "is", answer)
        self._snapshot(user)

    def _snapshot(self, user):
        """The rows and versions of a snapshot, which must be those at the head."""
        rows = self.mirror.state_at(user, self.mirror.head(user))
        lines = "".join(chunk for chunk, in self.session.rows(
            "SELECT rowsync.snapshot(%s, %s)", user, "new")).rstrip("\n").split("\n")
        header, *body, end = map(json.loads, lines)
        read = {}
        for number, version, *values in body:
            place = header["tables"][number]
            table = self._table_named(place)
            row = self.mirror.parse_row(table, dict(zip(place["columns"], values)))
            read[table.number, table.key_of(row)] = (row, version)
        same(read, rows, f"the snapshot of {user}")
        expect(header["seq"] == self.mirror.head(user) and end == {
            "end": True, "rows": len(rows), "digest": self._digest(rows)}, "the snapshot says",
            header, end)
        return read

    def _digest(self, rows):
        """The sum of docs/protocol.md over the rows: schema, table, key and version of each."""
        high = low = 0
        for (number, key), (_, version) in rows.items():
            table = self.tables[number]
            pk = table.pk(key)
            text = "\x1f".join((table.schema, table.name, kinds.dump(pk) if isinstance(pk, list)
                                else pk, str(version)))
            sha = hashlib.sha256(text.encode()).digest()
            high += int.from_bytes(sha[:8], "big")
            low += int.from_bytes(sha[8:16], "big")
        return f"{high % (1 << 64):016x}{low % (1 << 64):016x}"

    def close(self):
        self.session.close()
