"""Column types: how a value is made, sent, written as SQL, read back and compared.

A value has one canonical form in the model: what the JSON of docs/protocol.md parses to, with floats
as their exact text, json as its sorted text. `None` is NULL. Equal values have equal forms.
"""

import base64
import json

TEXTS = ["", "a", "Ann", 'quote " and \\ back', "line\nend\ttab", "ümlaut ẞ", "日本語", "😀", "null",
         "\x01\x1f", "x" * 300, "{}", "'; DROP TABLE x; --"]


class Kind:
    """One column type. `type` is its SQL name; subclasses say what differs from text."""

    type = "text"

    def make(self, rng):
        """A random value in canonical form."""
        return rng.choice(TEXTS + [f"t{rng.randrange(100)}"] * 6)

    def few(self, rng):
        """A random value out of few, so that values meet: for keys and unique columns."""
        return f"k{rng.randrange(30)}"

    def send(self, value, rng):
        """A JSON value that means `value`, in one of the forms that are accepted."""
        return value

    def wrong(self, rng):
        """A JSON value that this column must refuse."""
        return rng.choice([1, True, [1], {"a": 1}])

    def literal(self, value):
        """The value as a parameter for `%s::type`."""
        return value

    def read(self, column):
        """The SQL expression that `parse` understands."""
        return f"{column}::text"

    def parse(self, text):
        """The canonical form of what `read` gave."""
        return text

    def canonical(self, value):
        """The canonical form of a JSON value that the server sent."""
        return value

    def key_text(self, value):
        """The value as a `pk` of its own."""
        return str(value)


class Varchar(Kind):
    type = "varchar(6)"

    def make(self, rng):
        return rng.choice(["", "abc", "äöü", "sixsix"])

    def wrong(self, rng):
        return rng.choice([1, False, "much too long", {}])


class Label(Kind):
    """An enum; the schema creates the type."""

    type = "label"

    def make(self, rng):
        return rng.choice(["red", "green", 'b"lue'])

    def wrong(self, rng):
        return rng.choice(["yellow", 1, ""])


class Word(Kind):
    """A domain over text with a check; the schema creates it."""

    type = "word"

    def make(self, rng):
        return rng.choice(["one", "two", "three"])

    def wrong(self, rng):
        return rng.choice(["two words", 3])


class Integer(Kind):
    def __init__(self, name, bits):
        self.type = name
        self.bits = bits

    def make(self, rng):
        edge = 1 << (self.bits - 1)
        return rng.choice([0, 1, -1, edge - 1, -edge] + [rng.randrange(-100, 100)] * 6)

    def few(self, rng):
        return rng.choice([-3, (1 << (self.bits - 1)) - 1] + list(range(30)))

    def wrong(self, rng):
        return rng.choice(["1", 1.5, True, 1 << self.bits, [], "x"])

    def literal(self, value):
        return str(value)

    def parse(self, text):
        return int(text)


class Float(Kind):
    type = "double precision"

    def make(self, rng):
        return rng.choice(["0.0", "-0.0", "0.1", "1e+300", "5e-324", "NaN", "Infinity", "-Infinity",
                           "2.0", repr(rng.random())])

    def send(self, value, rng):
        return value if value in ("NaN", "Infinity", "-Infinity") else float(value)

    def wrong(self, rng):
        return rng.choice(["1", "nan", True, {}, Raw("1e999")])

    def parse(self, text):
        return text if text in ("NaN", "Infinity", "-Infinity") else repr(float(text))

    def canonical(self, value):
        return value if isinstance(value, str) else repr(float(value))


class Numeric(Kind):
    type = "numeric(12,2)"

    def make(self, rng):
        return rng.choice(["0.00", "-1.50", "9999999999.99", f"{rng.randrange(1000)}.25"])

    def send(self, value, rng):
        return rng.choice([value, Raw(value)])

    def wrong(self, rng):
        return rng.choice(["one", "", True, "99999999999"])


class Boolean(Kind):
    type = "boolean"

    def make(self, rng):
        return rng.random() < 0.5

    def send(self, value, rng):
        return rng.choice([value, int(value)])

    def wrong(self, rng):
        return rng.choice(["true", 2, []])

    def parse(self, text):
        return text == "true"


class Uuid(Kind):
    type = "uuid"

    def make(self, rng):
        return _uuid(rng.getrandbits(128))

    def few(self, rng):
        return _uuid((rng.randrange(30) + 1) * 0x0123456789ABCDEF0123456789)

    def send(self, value, rng):
        form = rng.randrange(6)
        if form == 0:
            return value.upper()
        if form == 1:
            return value.replace("-", "")
        if form == 2:
            return base64.b64encode(bytes.fromhex(value.replace("-", ""))).decode()
        return value

    def wrong(self, rng):
        return rng.choice(["not-a-uuid", 1, "", "0123456789abcdef0123456789abcdeg"])


class Bytes(Kind):
    type = "bytea"

    def make(self, rng):
        return base64.b64encode(rng.randbytes(rng.choice([0, 1, 2, 3, 16, 100]))).decode()

    def send(self, value, rng):
        return value if rng.random() < 0.8 else "\\x" + base64.b64decode(value).hex()

    def wrong(self, rng):
        return rng.choice(["a", "!!!!", "\\x0", 5])

    def literal(self, value):
        return "\\x" + base64.b64decode(value).hex()

    def read(self, column):
        return f"encode({column}, 'hex')"

    def parse(self, text):
        return base64.b64encode(bytes.fromhex(text)).decode()


class Moment(Kind):
    type = "timestamptz"

    def make(self, rng):
        return (f"{rng.randrange(1900, 2100):04}-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}"
                f"T{rng.randrange(24):02}:{rng.randrange(60):02}:{rng.randrange(60):02}"
                f".{rng.choice([0, 1, 123456, 999999, 500000]):06}Z")

    def send(self, value, rng):
        return value if rng.random() < 0.7 else value.replace("Z", "+00:00")

    def wrong(self, rng):
        return rng.choice(["tomorrow-ish", 5, "2020-13-01T00:00:00Z"])

    def read(self, column):
        return f"""to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""


class Date(Kind):
    type = "date"

    def make(self, rng):
        return f"{rng.randrange(1900, 2100):04}-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}"

    def wrong(self, rng):
        return rng.choice(["2020-02-30", 7, "never"])


class Json(Kind):
    def __init__(self, name):
        self.type = name

    def make(self, rng):
        return _sorted(rng.choice([{}, [], {"b": 1, "a": [None, "x", 2]}, "text", 7, True,
                                   {"deep": {"er": [[]]}}, {"q": 'a"\\b'}]))

    def send(self, value, rng):
        return Raw(value)

    def wrong(self, rng):
        return rng.choice(["{", "[1", "{'a':1}"])

    def parse(self, text):
        return _sorted(json.loads(text))

    def canonical(self, value):
        return _sorted(value)


class Array(Kind):
    type = "text[]"

    def make(self, rng):
        return rng.choice(["{}", "{a}", "{a,b,NULL}", '{"with space","q\\"uote"}'])

    def wrong(self, rng):
        return rng.choice(["{", 1, ["a"]])


class Raw(str):
    """JSON text that goes into a request as it is."""


def dump(value):
    """Compact JSON; `Raw` parts are left as they are."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(k)}:{dump(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(dump, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _sorted(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _uuid(number):
    digits = f"{number:032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


TEXT, UUID = Kind(), Uuid()
INT2, INT4, INT8 = Integer("smallint", 16), Integer("integer", 32), Integer("bigint", 64)
KEYS = [UUID, UUID, TEXT, INT4, INT8]
VALUES = [TEXT, TEXT, INT4, INT8, INT2, Float(), Numeric(), Boolean(), UUID, Bytes(), Moment(),
          Date(), Json("jsonb"), Json("json"), Array(), Label(), Word(), Varchar()]
