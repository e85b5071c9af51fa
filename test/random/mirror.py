"""What is on the server, read back and checked against itself, and the log as history.

The business tables are read with plain SQL, the log and the versions from rowsync's tables. `refresh`
reads it all and checks what must hold at any time: the log is dense, chained and agrees with itself,
row_meta is its summary, and the business tables are exactly its latest rows.
"""

import dataclasses
import json
import uuid


class Difference(AssertionError):
    """The extension and the model do not agree."""


def expect(condition, *what):
    """Raises a Difference that says `what` unless `condition` holds."""
    if not condition:
        raise Difference(" ".join(str(part) for part in what))


@dataclasses.dataclass
class Entry:
    """One line of the change log, with its row parsed."""

    seq: int
    change_id: int
    prior: int
    source: int
    op: str
    row_id: tuple  # (table number, key)
    row: dict  # None where there is no payload


class Mirror:
    """The server's state as of the last `refresh`."""

    def __init__(self, session, tables):
        self.session = session
        self.tables = tables
        self.by_id = {table.id: table for table in tables}
        self.state = {}  # row_id -> (scope, row); the scope is None for a row of nobody
        self.history = {}  # scope -> [Entry], the entry of seq n at n - 1
        self.chains = {}  # scope -> row_id -> [Entry], without what is pruned
        self.floor = {}  # scope -> floor
        self.pruned = {}  # scope -> seqs that are gone from the log

    def refresh(self):
        """Reads what is new, checks it, and returns the new entries by scope."""
        news = self._read_log()
        self.state = self._read_state()
        self._check_versions()
        self._check_rows()
        return news

    def prune(self, scope, floor):
        """Forgets what rowsync.prune must have removed, and checks that this is what it removed."""
        self.floor[scope] = floor
        pruned = self.pruned.setdefault(scope, set())
        for row_id, chain in list(self.chains[scope].items()):
            last = chain[-1]
            # What a row was at the floor can still be told.
            then = next((entry for entry in reversed(chain) if entry.seq <= floor), None)
            if then is last and then.op == "D":
                then = None
            kept = [entry for entry in chain if entry.seq > floor or entry is then]
            pruned |= {entry.seq for entry in chain} - {entry.seq for entry in kept}
            self.chains[scope][row_id] = kept
            if last.op == "D" and last.seq <= floor:
                del self.chains[scope][row_id]
        found = {seq for seq, in self.session.rows(
            "SELECT seq FROM rowsync.change_log JOIN rowsync.scope USING (scope_id) "
            "WHERE name = %s", scope)}
        expect(found == {entry.seq for entry in self.history[scope]} - pruned, "prune of", scope,
               "to", floor, "left", sorted(found))

    def last(self, scope, row_id):
        """The latest entry of a row, or None."""
        chain = self.chains.get(scope, {}).get(row_id)
        return chain[-1] if chain else None

    def live(self, scope, row_id):
        """Whether the scope has this row."""
        last = self.last(scope, row_id)
        return last is not None and last.op != "D"

    def head(self, scope):
        return len(self.history.get(scope, []))

    def state_at(self, scope, until):
        """The rows of a scope as of a number: row_id -> (row, version)."""
        rows = {}
        for entry in self.history.get(scope, [])[:until]:
            if entry.op == "D":
                rows.pop(entry.row_id, None)
            else:
                rows[entry.row_id] = (entry.row, entry.seq)
        return rows

    def parse_row(self, table, payload):
        """A row of the protocol in canonical form."""
        expect(set(payload) == {column.name for column in table.columns}, "columns of", table.label,
               "are", sorted(payload))
        return {column.name: None if payload[column.name] is None
                else column.kind.canonical(payload[column.name]) for column in table.columns}

    def parse_key(self, table, data):
        """A row_key in canonical form."""
        kinds = [table.column(name).kind for name in table.keys]
        if len(kinds) > 1:
            return tuple(kind.canonical(part) for kind, part in zip(kinds, json.loads(data)))
        if kinds[0].type == "uuid":
            return (str(uuid.UUID(bytes=data)),)
        if kinds[0].type in ("integer", "bigint"):
            return (int.from_bytes(data, "big", signed=True),)
        return (data.decode(),)

    def _read_log(self):
        news = {}
        for scope_id, scope, head in self.session.rows(
                "SELECT scope_id, name, head FROM rowsync.scope ORDER BY name"):
            history = self.history.setdefault(scope, [])
            chains = self.chains.setdefault(scope, {})
            fresh = []
            for seq, change_id, prior, table_id, source, op, key, payload in self.session.rows(
                    'SELECT seq, source_change_id, prior_version, table_id, source_no, op, row_key, '
                    'payload FROM rowsync.change_log WHERE scope_id = %s AND seq > %s ORDER BY seq',
                    scope_id, len(history)):
                table = self.by_id[table_id]
                expect(seq == len(history) + 1, "the log of", scope, "jumps to", seq)
                row = None if payload is None else self.parse_row(table, json.loads(payload))
                entry = Entry(seq, change_id, prior, source, op,
                              (table.number, self.parse_key(table, bytes(key))), row)
                chain = chains.setdefault(entry.row_id, [])
                expect(prior == (chain[-1].seq if chain else 0), "entry", seq, "of", scope,
                       "has prior_version", prior)
                was_live = bool(chain) and chain[-1].op != "D"
                expect(op == "D" or op == ("U" if was_live else "I"), "entry", seq, "of", scope,
                       "is", op, "while the row was", "live" if was_live else "absent")
                expect((row is not None) == (op != "D" or was_live), "payload of entry", seq, "of",
                       scope, "is", payload)
                if row is not None:
                    expect(table.key_of(row) == entry.row_id[1], "entry", seq, "of", scope,
                           "has a payload of another key")
                chain.append(entry)
                history.append(entry)
                fresh.append(entry)
            expect(head == len(history), "head of", scope, "is", head, "with", len(history),
                   "entries")
            if fresh:
                news[scope] = fresh
        return news

    def _read_state(self):
        state = {}
        for table in self.tables:
            columns = ", ".join(column.kind.read(_name(column.name)) for column in table.columns)
            for values in self.session.rows(
                    f"SELECT {_name(table.scope)}::text, {columns} FROM {table.label}"):
                row = {column.name: None if text is None else column.kind.parse(text)
                       for column, text in zip(table.columns, values[1:])}
                state[table.number, table.key_of(row)] = (values[0], row)
        return state

    def _check_versions(self):
        found = {}
        for scope, table_id, key, version, deleted in self.session.rows(
                "SELECT s.name, m.table_id, m.row_key, m.version, m.deleted FROM rowsync.row_meta m "
                "JOIN rowsync.scope s USING (scope_id)"):
            table = self.by_id[table_id]
            found[scope, (table.number, self.parse_key(table, bytes(key)))] = (version, deleted)
        expected = {(scope, row_id): (chain[-1].seq, chain[-1].op == "D")
                    for scope, chains in self.chains.items() for row_id, chain in chains.items()}
        _same(found, expected, "row_meta")

    def _check_rows(self):
        logged = {(scope, row_id): chain[-1].row for scope, chains in self.chains.items()
                  for row_id, chain in chains.items() if chain[-1].op != "D"}
        stored = {(scope, row_id): row for row_id, (scope, row) in self.state.items()
                  if scope is not None}
        _same(stored, logged, "the business tables against the log")


def _name(name):
    return '"' + name.replace('"', '""') + '"'


def _same(found, expected, what):
    """Raises a Difference with the first few entries in which two dictionaries differ."""
    if found == expected:
        return
    keys = [key for key in {**found, **expected} if found.get(key) != expected.get(key)]
    lines = [f"{key}: is {found.get(key)}, should be {expected.get(key)}" for key in keys[:3]]
    raise Difference(f"{what}: {len(keys)} differ; " + "; ".join(lines))


same = _same
