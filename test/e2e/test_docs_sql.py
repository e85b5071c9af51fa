"""docs/sql.md is complete and true: functions, views, tables, columns, settings, errors, problems."""

import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCS = (ROOT / "docs" / "sql.md").read_text(encoding="utf-8")
ERRORS = (ROOT / "test" / "pgtap" / "errors.sql").read_text(encoding="utf-8")


def table(*header):
    """The lines of the Markdown tables with these column heads, each as a list of cells."""
    rows = []
    inside = False
    for line in DOCS.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if inside and line.startswith("|"):
            rows += [cells] if not line.startswith("| ---") else []
        else:
            inside = line.startswith("|") and cells == list(header)
    assert rows, header
    return rows


def code(cell):
    """What stands in backticks."""
    return re.findall(r"`([^`]*)`", cell)


def test_every_public_function_is_documented_as_it_is(database):
    functions = database.rows("""
        SELECT p.proname, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid)
          FROM pg_proc p
         WHERE p.pronamespace = 'rowsync'::regnamespace AND p.proname NOT LIKE E'\\\\_%%'""")
    assert len(functions) > 15
    documented = {}
    for row in table("function", "what it does") + table("function", "route"):
        name, arguments, result = re.fullmatch(r"(\w+)\((.*?)\)(?: → (.*))?", code(row[0])[0]).groups()
        documented[name] = arguments, result or "void"
    assert set(documented) == {name for name, _, _ in functions}
    for name, arguments, result in functions:
        arguments = re.sub(r"::[a-z ]+", "", re.sub(r", (\w+ \w+ DEFAULT)", r", \1", arguments))
        assert documented[name][0] == arguments, name
        told = documented[name][1]
        if result.startswith("TABLE("):
            # The types of columns may be left out.
            names = re.findall(r"(\w+) [^,]+", result[len("TABLE("):-1])
            assert told.startswith("table (") and [
                part.split()[0] for part in told[len("table ("):-1].split(", ")] == names, name
        else:
            assert told == result.replace("SETOF", "setof"), name


def test_every_view_and_table_is_documented_with_its_columns(database):
    relations = dict(database.rows("""
        SELECT c.relname, array_agg(a.attname::text ORDER BY a.attnum)
          FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
         WHERE c.relnamespace = 'rowsync'::regnamespace AND c.relkind IN ('r', 'v')
           AND NOT a.attisdropped GROUP BY 1"""))
    documented = {code(row[0])[0]: code(row[2]) for row in
                  table("view", "shows", "columns") + table("table", "holds", "columns")}
    assert documented == relations


def test_every_setting_is_documented_as_it_is(database):
    database.rows("SELECT rowsync.schema_version()")
    settings = database.rows("""
        SELECT name, boot_val, min_val, max_val, coalesce(unit, ''), context FROM pg_settings
         WHERE name LIKE 'rowsync.%%'""")
    documented = {code(row[0])[0]: row[1:] for row in
                  table("setting", "default", "range", "who", "what")}
    assert set(documented) == {row[0] for row in settings}
    for name, default, least, most, unit, context in settings:
        told, limits, who, _ = documented[name]
        assert who == {"user": "anybody", "superuser": "superuser"}[context], name
        if least is None:
            assert told == "none" and not default, name
            continue
        size = {"": lambda text: int(text.split()[0]),
                "kB": lambda text: int(text.split()[0]) * {"kB": 1, "MB": 1024}[text.split()[1]]}[unit]
        assert size(told) == int(default), name
        assert [size(part) for part in limits.replace(" changes", "").split(" to ")] == [
            int(least), int(most)], name


def test_every_sqlstate_is_documented_and_raised_by_a_test():
    header = (ROOT / "pg_extension" / "src" / "errors.h").read_text(encoding="utf-8")
    codes = {"".join(letters) for letters in
             re.findall(r"MAKE_SQLSTATE\('(.)', '(.)', '(.)', '(.)', '(.)'\)", header)}
    assert {code(row[0])[0] for row in table("SQLSTATE", "meaning", "what to do")} == codes
    assert codes <= {state for _, state in raised()}


def raised():
    """Which errors of which functions test/pgtap/errors.sql raises."""
    pairs = re.findall(r"^\('([^']+)', '(\w{5})', ", ERRORS, re.MULTILINE)
    pairs += [tuple(pair.split()) for pair in re.findall(r"'(\w+ \w{5})'\);$", ERRORS, re.MULTILINE)]
    return pairs


def test_every_documented_error_of_every_function_is_raised_by_a_test(database):
    documented = set()
    functions = set()
    for name, states in table("function", "SQLSTATE"):
        name = code(name)[0] if code(name) else name.split()[0]
        functions.add(name)
        documented |= {(name, state) for state in code(states) if re.fullmatch(r"RS\d{3}|\d{5}", state)}
    assert documented == set(raised())
    assert functions >= {name for name, in database.rows("""
        SELECT p.proname FROM pg_proc p
         WHERE p.pronamespace = 'rowsync'::regnamespace AND p.proname NOT LIKE E'\\\\_%%'""")}


def test_every_object_and_column_has_a_comment(database):
    assert database.rows("""
        SELECT p.proname::text FROM pg_proc p
         WHERE p.pronamespace = 'rowsync'::regnamespace
           AND obj_description(p.oid, 'pg_proc') IS NULL
        UNION ALL
        SELECT c.relname FROM pg_class c
         WHERE c.relnamespace = 'rowsync'::regnamespace AND c.relkind IN ('r', 'v')
           AND obj_description(c.oid, 'pg_class') IS NULL
        UNION ALL
        SELECT c.relname || '.' || a.attname FROM pg_class c
          JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
         WHERE c.relnamespace = 'rowsync'::regnamespace AND c.relkind IN ('r', 'v')
           AND NOT a.attisdropped AND col_description(c.oid, a.attnum) IS NULL""") == []
