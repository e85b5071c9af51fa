"""Random uploads, and what the protocol says of their answers.

What follows from the rules alone is predicted: what is malformed, what conflicts, what is known
already, which version a row gets and what it then looks like. Whether a constraint of the schema
admits a row is not modelled twice: a change that was refused for one is tried alone with plain SQL,
where it must fail too, and one that was applied is in the table.
"""

import dataclasses
import json

import kinds
from mirror import expect, same
from schema import quote


@dataclasses.dataclass
class Change:
    """One change of a request. `payload` is canonical; `bad` is why it must be refused."""

    id: int
    op: str
    table: object
    key: tuple
    base: int
    payload: dict
    text: str = ""
    bad: str = None
    reused: bool = False  # its id has been given before, to another change
    answer: dict = None

    @property
    def row_id(self):
        return (self.table.number, self.key)


def encode(change, rng, extra=None):
    """Writes the change as JSON, in one of the forms the protocol allows."""
    table = change.table
    fields = {"source_change_id": change.id, "schema": table.schema, "table": table.name,
              "op": {"I": "INSERT", "U": "UPDATE", "D": "DELETE"}[change.op]}
    pk = table.pk(change.key)
    fields["pk"] = json.dumps(pk) if isinstance(pk, list) and rng.random() < 0.5 else pk
    if change.base != 0 or rng.random() < 0.5:
        fields["server_version"] = change.base
    if change.op != "D":
        fields["payload"] = {name: None if value is None else table.column(name).kind.send(value, rng)
                             for name, value in change.payload.items()}
    elif rng.random() < 0.3:
        fields["payload"] = None
    fields.update(extra or {})
    items = list(fields.items())
    rng.shuffle(items)
    change.text = kinds.dump(dict(items))
    return change


class Judge:
    """Checks the answer to one request against the state before and after it."""

    def __init__(self, world, source, changes, atomic, answer):
        self.world = world
        self.mirror = world.mirror
        self.source = source
        self.scope = source.user
        self.changes = changes
        self.atomic = atomic
        self.answer = answer
        self.before = dict(self.mirror.state)
        self.chains = {row_id: list(chain) for row_id, chain in
                       self.mirror.chains.get(self.scope, {}).items()}
        self.head = self.mirror.head(self.scope)

    def judge(self):
        """Raises a Difference at the first thing that is wrong."""
        statuses = self.answer["statuses"]
        expect([status["source_change_id"] for status in statuses] ==
               [change.id for change in self.changes], "statuses are out of order")
        for change, status in zip(self.changes, statuses):
            change.answer = status
        news = self.mirror.refresh()
        self.entries = {entry.seq: entry for entry in news.get(self.scope, [])}
        self.touched = {(scope, entry.row_id) for scope, entries in news.items()
                        for entry in entries if entry.source == 0}
        expect(self.answer["highest_server_seq"] == self.mirror.head(self.scope),
               "highest_server_seq is", self.answer["highest_server_seq"])
        expect(self.answer["accepted"] is True, "accepted is not true")
        self._find_fresh()
        refused = self.atomic and any(
            change.answer["status"] != "applied" for change in self.changes)
        if refused:
            expect(not news, "a refused atomic request changed the log")
            for change in self.fresh:
                expect(change.answer["status"] != "applied", "atomic: change", change.id,
                       "was applied while another was not")
            same(self.mirror.state, self.before, "a refused atomic request")
            return
        applied = self._decide()
        self._check_state(applied, news)
        self._check_refused()
        for change in applied:
            self.source.known[change.id] = change.answer

    def _find_fresh(self):
        """Checks what is no new change: known already, repeated in the request, malformed."""
        self.fresh = []
        seen = {}
        for change in self.changes:
            answer = change.answer
            if change.id in seen:
                first = seen[change.id]
                if first.text == change.text:
                    expect(answer == first.answer, "change", change.id, "twice in the request got",
                           answer, "after", first.answer)
                else:
                    self._expect_invalid(change, {"bad_payload"})
                continue
            seen[change.id] = change
            if change.id in self.source.known:
                known = self.source.known[change.id]
                if change.reused and self._is_other(change, known["new_server_version"]):
                    self._expect_invalid(change, {"bad_payload"})
                    continue
                expect(answer["status"] == "applied", "known change", change.id, "got", answer)
                if known["new_server_version"] in self.mirror.pruned.get(self.scope, ()):
                    expect(answer["new_server_version"] > 0, "pruned change", change.id, "got",
                           answer)
                    continue
                expect(answer["new_server_version"] == known["new_server_version"],
                       "known change", change.id, "got", answer, "first it got", known)
                expect("server_row" not in known or "server_row" in answer, "known change",
                       change.id, "got", answer, "without the server_row of", known)
            elif change.bad:
                self._expect_invalid(change, {change.bad})
            else:
                self.fresh.append(change)
        counts = {}
        for change in self.fresh:
            counts[change.row_id] = counts.get(change.row_id, 0) + 1
        self.several = any(count > 1 for count in counts.values())

    def _is_other(self, change, version):
        """Whether a change says something else than the one that got this version."""
        if version in self.mirror.pruned.get(self.scope, ()):
            return False
        entry = self.mirror.history[self.scope][version - 1]
        return entry.row_id != change.row_id or (entry.op == "D") != (change.op == "D") or any(
            entry.row[name] != value for name, value in change.payload.items())

    def _expect_invalid(self, change, reasons):
        answer = change.answer
        expect(answer["status"] == "invalid" and
               (self.atomic or answer["invalid"]["reason"] in reasons), "change", change.text, "must be", reasons, "but got", answer)

    def _decide(self):
        """Follows each row through the request; returns the changes that were applied."""
        rows = {}
        applied = []
        for change in self.fresh:
            first = change.row_id not in rows
            if first:
                chain = self.chains.get(change.row_id, [])
                row = chain[-1].row if chain and chain[-1].op != "D" else None
                rows[change.row_id] = ([(entry.seq, entry.source, entry.prior) for entry in chain],
                                       row)
            chain, row = rows[change.row_id]
            outcome = self._rule(change, chain, row)
            status = change.answer["status"]
            # A cascade of this very request may have moved the row in between, or before: then a
            # change that was refused at first, and is tried again, finds it gone.
            unsure = (self.scope, change.row_id) in self.touched and (
                not first or self._finds_it_gone(change))
            if not unsure:
                expect((status == "conflict") == (outcome == "conflict"), "change", change.text,
                       "on the row", row, "with versions", chain[-5:], "must be", outcome,
                       "but got", change.answer)
                if outcome in ("says", "gone"):
                    expect(status == "applied", "change", change.text, "says what is,", row,
                           "but got", change.answer)
                if status == "conflict":
                    self._check_conflict(change, chain, row)
            if status != "applied":
                continue
            applied.append(change)
            version = change.answer["new_server_version"]
            entry = self.entries.get(version)
            expect(entry is not None and entry.row_id == change.row_id and
                   entry.change_id == change.id and entry.source == self.source.number(self),
                   "change", change.text, "got version", version, "which is", entry)
            expect((entry.op == "D") == (change.op == "D"), "change", change.text, "is logged as",
                   entry)
            if not unsure:
                self._check_server_row(change, entry, chain, row)
            chain.append((version, entry.source, entry.prior))
            rows[change.row_id] = (chain, None if entry.op == "D" else entry.row)
            change.outcome = outcome
        return applied

    def _finds_it_gone(self, change):
        """Whether a change is in conflict with a deletion that the server made in this request."""
        if change.answer["status"] != "conflict":
            return False
        entry = self.entries.get(change.answer["server_row"]["server_version"])
        return (entry is not None and entry.row_id == change.row_id and entry.source == 0
                and entry.op == "D")

    def _rule(self, change, chain, row):
        """What the protocol says: write, says (what the row is), gone, or conflict."""
        version = chain[-1][0] if chain else 0
        fits = change.base == version or (version > 0 and self._only_self_since(change.base, chain))
        if change.op == "D":
            return "gone" if row is None else ("write" if fits else "conflict")
        says = row is not None and all(row[name] == value for name, value in change.payload.items())
        if fits:
            return "says" if says and set(change.payload) <= set(change.table.keys) else "write"
        return "says" if says else "conflict"

    def _only_self_since(self, base, chain):
        """Whether all that the log still shows of the row after base is the caller's.

        What is pruned before that counts as the caller's too, if it has read as far.
        """
        known = {seq: (source, prior) for seq, source, prior in chain}
        version = chain[-1][0]
        while version > base:
            if version not in known:
                return (version in self.mirror.pruned.get(self.scope, ()) and
                        self.source.cursor >= self.mirror.floor[self.scope])
            source, version = known[version]
            if source != self.source.number(self):
                return False
        return version == base

    def _check_conflict(self, change, chain, row):
        answer = change.answer
        table = change.table
        server = answer["server_row"]
        expect(server["schema_name"] == table.schema and server["table_name"] == table.name,
               "conflict names", server)
        expect(server["server_version"] == (chain[-1][0] if chain else 0) and
               server["deleted"] == (row is None), "change", change.text, "on", chain[-1:], row,
               "conflicts with", server)
        if row is None:
            expect(server["payload"] is None, "a deleted row has the payload", server)
            return
        expect(server["payload"] is not None and
               self.mirror.parse_row(table, server["payload"]) == row, "change", change.text,
               "conflicts with", server, "but the row is", row)
        past = self._row_at(change.row_id, change.base)
        if past is not None:
            changed = {name for name in row if row[name] != past[name]}
            changed &= self._changed_by_others(change.row_id, change.base)
            expect(set(answer.get("server_changed", changed)) == changed, "server_changed is",
                   answer.get("server_changed"), "must be", changed)

    def _changed_by_others(self, row_id, base):
        """The columns that changes of other sources touched after a version of a row."""
        names, before = set(), None
        for entry in self.chains.get(row_id, []):
            if entry.op == "D":
                continue
            if entry.seq > base and before and entry.source != self.source.number(self):
                names |= {name for name in entry.row if entry.row[name] != before[name]}
            before = entry.row
        return names

    def _row_at(self, row_id, version):
        return next((entry.row for entry in self.chains.get(row_id, [])
                     if entry.seq == version and entry.op != "D"), None)

    def _check_server_row(self, change, entry, chain, row):
        """The source must know the row as stored: from its payload, or from server_row."""
        answer = change.answer
        if change.op == "D":
            return
        if "server_row" in answer:
            got = self.mirror.parse_row(change.table, answer["server_row"]["payload"])
            expect(got == entry.row, "server_row", got, "but stored is", entry.row)
            return
        version = chain[-1][0] if chain else 0
        informed = change.base == version or (
            version > 0 and self._only_self_since(change.base, chain))
        past = row if informed else self._row_at(change.row_id, change.base)
        if past is None and not informed:
            return
        knows = dict.fromkeys((column.name for column in change.table.columns), None)
        knows.update(past or {})
        knows.update(change.payload)
        knows.update(zip(change.table.keys, change.key))
        expect(knows == entry.row, "change", change.text, "was applied without server_row: the "
               "source has", knows, "stored is", entry.row)

    def _check_state(self, applied, news):
        """The tables must be what the applied changes make of them, cascades included."""
        state = dict(self.before)
        tables = self.mirror.tables
        for change in sorted(applied, key=lambda change: change.answer["new_server_version"]):
            if change.outcome in ("says", "gone"):
                continue
            if change.op == "D":
                remove(tables, state, change.row_id)
                continue
            _, row = state.get(change.row_id, (None, None))
            state[change.row_id] = (self.scope, stored(change.table, row, change))
            for reference in change.table.references:
                if row is not None and not set(reference.columns) & set(change.payload):
                    continue
                entry = self.entries[change.answer["new_server_version"]]
                # The parent that it named was deleted in the same request: the default is the schema's.
                if reference.on_delete == "SET DEFAULT" and any(
                        entry.row[name] != change.payload.get(name, entry.row[name])
                        for name in reference.columns):
                    continue
                key = tuple(entry.row[name] for name in reference.columns)
                scope, _ = self.mirror.state.get((reference.parent, key), (self.scope, None))
                expect(scope == self.scope, "change", change.text, "refers to a row of", scope)
        same(self.mirror.state, state, "the tables after the upload")
        own = {change.row_id for change in applied}
        for scope, entries in news.items():
            for entry in entries:
                if entry.source == 0 and entry.row_id not in own:
                    expect(self.before.get(entry.row_id) != state.get(entry.row_id),
                           "the upload logged", entry, "of a row of", scope, "that did not change")

    def _check_refused(self):
        """What was refused must be impossible; not asked where a row has several changes."""
        for change in self.fresh:
            if change.answer["status"] != "invalid":
                continue
            invalid = change.answer["invalid"]
            reason = invalid["reason"]
            expect(reason in ("fk_missing", "constraint", "forbidden"), "change", change.text, "got",
                   change.answer)
            if self.several:
                continue
            if reason == "fk_missing" and invalid["details"]["missing"]:
                self._check_missing(change, invalid["details"]["missing"])
                continue
            if reason == "fk_missing" and self._refers_away(change):
                continue
            live = self.mirror.live(self.scope, change.row_id)
            error = self._try_alone(change, live)
            expect(error is not None, "change", change.text, "was refused with", change.answer,
                   "but plain SQL takes it")
            code, constraint = error
            if code == "23503":
                wanted = "constraint" if change.op == "D" else "fk_missing"
            elif code == "23505" and not live and constraint in self.world.key_names[
                    change.table.number]:
                wanted = "forbidden"
            else:
                wanted = "constraint"
            expect(reason == wanted or code == "none", "change", change.text, "got", change.answer,
                   "but plain SQL says", error)

    def _refers_away(self, change):
        """Whether defaults complete a change to one that refers to another scope's row."""
        _, row = self.mirror.state.get(change.row_id, (None, None))
        row = stored(change.table, row, change)
        owners = [self.mirror.state.get((reference.parent, tuple(
            row[name] for name in reference.columns)), (self.scope, None))[0]
                  for reference in change.table.references]
        return any(owner != self.scope for owner in owners)

    def _check_missing(self, change, missing):
        """Each row that is said to be missing is a parent of the change that the scope lacks."""
        last = self.mirror.last(self.scope, change.row_id)
        chain = self.chains.get(change.row_id)
        parents = set()
        # What the payload leaves out comes from the row: a cascade may have changed that meanwhile.
        for entry in (last, chain[-1] if chain else None):
            row = {**(entry.row if entry and entry.op != "D" else {}), **change.payload}
            for reference in change.table.references:
                key = tuple(row.get(name) for name in reference.columns)
                if None not in key and not self.mirror.live(self.scope, (reference.parent, key)):
                    parent = self.mirror.tables[reference.parent]
                    pk = parent.pk(key)
                    parents.add(f"{parent.schema}.{parent.name}:"
                                + (kinds.dump(pk) if isinstance(pk, list) else pk))
        expect(missing and set(missing) <= parents, "change", change.text, "misses", missing,
               "but the scope lacks", parents)

    def _try_alone(self, change, live):
        """The error of the change as plain SQL, as (SQLSTATE, constraint); None if it works."""
        table = change.table
        values = {name: value for name, value in {
            **change.payload, **dict(zip(table.keys, change.key))}.items()}
        match = " AND ".join(f"{quote(name)} = %s::{table.column(name).kind.type}"
                             for name in table.keys) + f" AND {quote(table.scope)}::text = %s"
        key = [table.column(name).kind.literal(value) for name, value in
               zip(table.keys, change.key)] + [self.scope]
        cast = {name: f"%s::{table.column(name).kind.type}" for name in values}
        bound = {name: None if value is None else table.column(name).kind.literal(value)
                 for name, value in values.items()}
        if change.op == "D":
            sql, arguments = f"DELETE FROM {table.label} WHERE {match}", key
        elif live:
            names = [name for name in change.payload if name not in table.keys] or table.keys
            sql = (f"UPDATE {table.label} SET "
                   + ", ".join(f"{quote(name)} = {cast[name]}" for name in names)
                   + f" WHERE {match}")
            arguments = [bound[name] for name in names] + key
        else:
            names = list(values)
            sql = (f"INSERT INTO {table.label} ({', '.join(map(quote, names))}, "
                   f"{quote(table.scope)}) VALUES ({', '.join(cast[name] for name in names)}, %s)")
            arguments = [bound[name] for name in names] + [self.scope]
        return self.world.session.attempt(sql, arguments)


def stored(table, row, change):
    """The row that a table stores: defaults, triggers and generated columns included."""
    if row is None:
        row = {column.name: column.default for column in table.columns}
    row = {**row, **change.payload, **dict(zip(table.keys, change.key))}
    return derive(table, row)


def derive(table, row):
    """Fills in what triggers and generated columns make of a row."""
    for column in table.columns:
        if column.lowered and row[column.name] is not None:
            row[column.name] = row[column.name].lower()
    for column in table.columns:
        if column.length_of:
            text = row[column.length_of]
            row[column.name] = None if text is None else len(text)
    return row


def remove(tables, state, row_id):
    """Deletes a row and does what its references say, as PostgreSQL would."""
    if state.pop(row_id, None) is None:
        return
    number, key = row_id
    for table in tables:
        for reference in table.references:
            if reference.parent != number or reference.on_delete not in (
                    "CASCADE", "SET NULL", "SET DEFAULT"):
                continue
            children = [child for child, (_, row) in state.items() if child[0] == table.number
                        and tuple(row[name] for name in reference.columns) == key]
            for child in children:
                if child not in state:
                    continue
                if reference.on_delete == "CASCADE":
                    remove(tables, state, child)
                else:
                    scope, row = state[child]
                    default = reference.on_delete == "SET DEFAULT"
                    state[child] = (scope, derive(table, {**row, **{
                        name: table.column(name).default if default else None
                        for name in reference.columns}}))
