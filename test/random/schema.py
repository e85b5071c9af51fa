"""A random database schema: what an application's tables could look like, in small."""

import dataclasses

import kinds


@dataclasses.dataclass
class Column:
    """One column that travels. `default` is canonical; `check` and `computed` are Python and SQL."""

    name: str
    kind: object
    notnull: bool = False
    default: object = None
    unique: str = ""  # "", or UNIQUE or an EXCLUDE that says the same, perhaps DEFERRABLE
    least: int = None  # CHECK (column >= least)
    lowered: str = ""  # a trigger of this time (BEFORE or AFTER) stores it in lower case
    length_of: str = None  # GENERATED ALWAYS AS (length(that column))


@dataclasses.dataclass
class Reference:
    """A foreign key of `columns` to the primary key of table number `parent`."""

    columns: list
    parent: int
    on_delete: str = "NO ACTION"
    on_update: str = "NO ACTION"
    deferrable: bool = False
    late: bool = False  # added after both tables, for it closes a cycle


@dataclasses.dataclass
class Table:
    number: int
    schema: str
    name: str
    columns: list
    keys: list  # names
    scope: str  # the scope column; "_rowsync_scope" is added by registering
    scope_type: str
    scope_null: bool
    references: list
    partitioned: bool = False  # by the first column of its key
    id: int = 0  # rowsync's table_id

    @property
    def label(self):
        """The name in SQL."""
        return f"{quote(self.schema)}.{quote(self.name)}"

    def column(self, name):
        return next(column for column in self.columns if column.name == name)

    def key_of(self, row):
        """The key of a row, as a tuple."""
        return tuple(row[name] for name in self.keys)

    def pk(self, key):
        """A key as the protocol's `pk`."""
        if len(key) == 1:
            return self.column(self.keys[0]).kind.key_text(key[0])
        return list(key)


def quote(name):
    """An SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def make(rng):
    """The tables of a random schema."""
    schemas = rng.choice([["app"], ["app", 'Odd "Schema']])
    tables = []
    for number in range(rng.randrange(2, 6)):
        tables.append(_table(rng, number, rng.choice(schemas), tables))
    if len(tables) > 1 and rng.random() < 0.5:
        _close_cycle(rng, tables)
    return tables


def _table(rng, number, schema, before):
    """One table, with references to itself and to tables before it."""
    count = rng.choice([1, 1, 1, 2, 3])
    keys = [Column(f"k{i}" if count > 1 else "id", rng.choice(kinds.KEYS), notnull=True)
            for i in range(count)]
    columns = keys + [_column(rng, i) for i in range(rng.randrange(1, 6))]
    own = rng.random() < 0.4
    table = Table(number, schema, rng.choice([f"t{number}", f'Table {number}"x']), columns,
                  [key.name for key in keys], rng.choice(["owner_id", "Tenant"]) if own else
                  "_rowsync_scope", rng.choice(["text", "uuid"]) if own else "text",
                  not own or rng.random() < 0.5, [])
    if rng.random() < 0.25:
        table.partitioned = True
        for column in columns:
            column.unique = ""
    for parent in rng.sample(before, min(len(before), rng.choice([0, 1, 1, 2]))):
        _refer(rng, table, parent, rng.random() < 0.4)
    if rng.random() < 0.3:
        _refer(rng, table, table, False)
    texts = [c.name for c in columns if c.kind is kinds.TEXT and c.name not in table.keys]
    if texts and rng.random() < 0.3:
        columns.append(Column("len", kinds.INT4, length_of=texts[0]))
    rng.shuffle(columns)
    return table


def _column(rng, number):
    """An ordinary column."""
    kind = rng.choice(kinds.VALUES)
    column = Column(rng.choice([f"c{number}", f"C {number}"]), kind)
    if rng.random() < 0.3:
        column.default = kind.make(rng)
    column.notnull = rng.random() < 0.3
    if kind in (kinds.TEXT, kinds.INT4) and rng.random() < 0.3:
        column.unique = rng.choice(["UNIQUE", "UNIQUE", "UNIQUE DEFERRABLE", "EXCLUDE",
                                    "EXCLUDE DEFERRABLE"])
        column.default = None
    elif kind is kinds.INT4 and rng.random() < 0.4:
        column.least = -50
        column.default = None
    elif kind is kinds.TEXT and rng.random() < 0.5:
        column.lowered = rng.choice(["BEFORE", "AFTER"])
        column.default = None
    return column


def _refer(rng, table, parent, notnull):
    """Adds a foreign key with columns of its own."""
    prefix = f"r{len(table.references)}"
    names = []
    for i, key in enumerate(parent.keys):
        column = Column(f"{prefix}_{i}" if len(parent.keys) > 1 else prefix,
                        parent.column(key).kind, notnull=notnull)
        if rng.random() < 0.15:
            column.default = column.kind.few(rng)
        table.columns.append(column)
        names.append(column.name)
    actions = ["NO ACTION", "NO ACTION", "RESTRICT", "CASCADE", "CASCADE", "SET DEFAULT"]
    table.references.append(Reference(
        names, parent.number, rng.choice(actions + ([] if notnull else ["SET NULL"] * 2)),
        rng.choice(["NO ACTION", "NO ACTION", "CASCADE"]), rng.random() < 0.6))


def _close_cycle(rng, tables):
    """Makes a table refer to a later one that, directly or not, refers to it; all deferrable."""
    child = rng.choice([t for t in tables[1:]])
    parents = [r.parent for r in child.references if r.parent != child.number]
    if not parents:
        return
    first = tables[parents[0]]
    _refer(rng, first, child, False)
    first.references[-1].late = True
    for table in tables:
        for reference in table.references:
            reference.deferrable = True


def statements(tables):
    """The SQL that creates the tables, without registering them."""
    yield "CREATE TYPE public.label AS ENUM ('red', 'green', 'b\"lue')"
    yield "CREATE DOMAIN public.word AS text CHECK (VALUE !~ ' ')"
    for schema in sorted({table.schema for table in tables}):
        yield f"CREATE SCHEMA {quote(schema)}"
    for table in tables:
        lines = [_column_sql(column) for column in table.columns]
        if table.scope != "_rowsync_scope":
            lines.append(f"{quote(table.scope)} {table.scope_type}"
                         + ("" if table.scope_null else " NOT NULL"))
        lines.append(f"PRIMARY KEY ({', '.join(map(quote, table.keys))})")
        lines += [f"EXCLUDE ({quote(column.name)} WITH =)" + column.unique[len("EXCLUDE"):]
                  for column in table.columns if column.unique.startswith("EXCLUDE")]
        lines += [_reference_sql(r, tables) for r in table.references if not r.late]
        yield f"CREATE TABLE {table.label} ({', '.join(lines)})" + (
            f" PARTITION BY HASH ({quote(table.keys[0])})" if table.partitioned else "")
        if table.partitioned:
            yield from _partitions(table)
        for column in table.columns:
            if column.lowered:
                yield from _lowering(table, column)
    for table in tables:
        for reference in table.references:
            if reference.late:
                yield f"ALTER TABLE {table.label} ADD {_reference_sql(reference, tables)}"


def _partitions(table):
    """Two partitions, of which one has its columns in other places."""
    first, second = (f"{quote(table.schema)}.{quote(f'part {table.number} {one}')}" for one in "ab")
    yield f"CREATE TABLE {first} PARTITION OF {table.label} FOR VALUES WITH (MODULUS 2, REMAINDER 0)"
    yield (f"CREATE TABLE {second} (gone integer, LIKE {table.label} INCLUDING DEFAULTS "
           "INCLUDING GENERATED INCLUDING CONSTRAINTS)")
    yield f"ALTER TABLE {second} DROP COLUMN gone"
    yield (f"ALTER TABLE {table.label} ATTACH PARTITION {second} "
           "FOR VALUES WITH (MODULUS 2, REMAINDER 1)")


def _lowering(table, column):
    """The trigger that lowers a column: of the row to come, or by an UPDATE of the one that is there,
    whose place among rowsync's own trigger its name decides."""
    name = quote(f"{'aA'[table.number % 2]} lower {table.number} {column.name}")
    value = quote(column.name)
    if column.lowered == "BEFORE":
        body = f"NEW.{value} := lower(NEW.{value}); RETURN NEW;"
    else:
        match = " AND ".join(f"{quote(key)} = NEW.{quote(key)}" for key in table.keys)
        body = (f"UPDATE {table.label} SET {value} = lower({value}) WHERE {match} AND "
                f"{value} <> lower({value}); RETURN NULL;")
    yield (f"CREATE FUNCTION public.{name}() RETURNS trigger LANGUAGE plpgsql AS "
           f"$$ BEGIN {body} END $$")
    yield (f"CREATE TRIGGER {name} {column.lowered} INSERT OR UPDATE ON {table.label} "
           f"FOR EACH ROW EXECUTE FUNCTION public.{name}()")


def _column_sql(column):
    text = f"{quote(column.name)} {column.kind.type}"
    if column.length_of:
        return text + f" GENERATED ALWAYS AS (length({quote(column.length_of)})) STORED"
    if column.notnull:
        text += " NOT NULL"
    if column.default is not None:
        value = str(column.kind.literal(column.default)).replace("'", "''")
        text += f" DEFAULT '{value}'::{column.kind.type}"
    if column.unique.startswith("UNIQUE"):
        text += " " + column.unique
    if column.least is not None:
        text += f" CHECK ({quote(column.name)} >= {column.least})"
    return text


def _reference_sql(reference, tables):
    return (f"FOREIGN KEY ({', '.join(map(quote, reference.columns))}) REFERENCES "
            f"{tables[reference.parent].label} ON DELETE {reference.on_delete} ON UPDATE "
            f"{reference.on_update}{' DEFERRABLE' if reference.deferrable else ''}")
