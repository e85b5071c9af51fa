"""docs/sql.md is complete: every function, view, table, setting and SQLSTATE of the extension."""

import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCS = (ROOT / "docs" / "sql.md").read_text(encoding="utf-8")


def test_every_public_function_is_documented_with_its_arguments(database):
    functions = database.rows("""
        SELECT p.proname,
               ARRAY(SELECT a.n FROM unnest(p.proargnames) WITH ORDINALITY AS a(n, i)
                      WHERE coalesce(p.proargmodes[a.i], 'i') = 'i' ORDER BY a.i)
          FROM pg_proc p
         WHERE p.pronamespace = 'rowsync'::regnamespace AND p.proname NOT LIKE E'\\\\_%%'
         ORDER BY 1""")
    assert len(functions) > 10
    for name, arguments in functions:
        call = re.search(rf"`{name}\((.*?)\)[` ]", DOCS)
        assert call, f"{name} is not in docs/sql.md"
        documented = [part.split()[0] for part in call.group(1).split(", ") if part]
        assert documented == arguments, name


def test_every_view_and_table_is_documented(database):
    for name, in database.rows("""
            SELECT c.relname FROM pg_class c
             WHERE c.relnamespace = 'rowsync'::regnamespace AND c.relkind IN ('r', 'v')"""):
        assert f"| `{name}` |" in DOCS, name


def test_every_setting_is_documented(database):
    database.rows("SELECT rowsync.schema_version()")
    settings = database.rows("SELECT name FROM pg_settings WHERE name LIKE 'rowsync.%%'")
    assert len(settings) == 5
    for name, in settings:
        assert f"| `{name}` |" in DOCS, name


def test_every_sqlstate_is_documented():
    header = (ROOT / "pg_extension" / "src" / "errors.h").read_text(encoding="utf-8")
    codes = re.findall(r"MAKE_SQLSTATE\('(.)', '(.)', '(.)', '(.)', '(.)'\)", header)
    assert codes
    for code in codes:
        assert f"| `{''.join(code)}` |" in DOCS, code


def test_everything_has_a_comment(database):
    silent = database.rows("""
        SELECT p.proname::text FROM pg_proc p
         WHERE p.pronamespace = 'rowsync'::regnamespace
           AND obj_description(p.oid, 'pg_proc') IS NULL
        UNION ALL
        SELECT c.relname FROM pg_class c
         WHERE c.relnamespace = 'rowsync'::regnamespace AND c.relkind IN ('r', 'v')
           AND obj_description(c.oid, 'pg_class') IS NULL""")
    assert silent == []
