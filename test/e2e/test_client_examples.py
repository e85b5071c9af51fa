"""What `make install` puts in place, and the example apps built and run against it."""

import os
import re
import subprocess
import sys

import pytest
import rig
from rig import node
from rig.build import BUILD, SANITIZE, preload
from rig.place import ROOT

CLIENT = ROOT / "client-sqlite"
EXAMPLES = CLIENT / "examples"


def run(*command, check=True, **environment):
    """Runs a command to its end and returns what it printed."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True,
                          env={**os.environ, **environment})
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that the client is installed in."""
    prefix = tmp_path_factory.mktemp("installed")
    run("make", "-C", CLIENT, f"BUILD={BUILD}", f"SANITIZE={SANITIZE}", f"PREFIX={prefix}", "install")
    return prefix


def pkg_config(prefix, *arguments):
    """What pkg-config says of the installed library."""
    return run("pkg-config", *arguments, "rowsync",
               PKG_CONFIG_PATH=str(prefix / "lib" / "pkgconfig")).split()


def test_what_is_installed(installed):
    for path in ("bin/rowsync", "lib/librowsync.a", "lib/librowsync.so.0", "lib/rowsync/rowsync.so",
                 "include/rowsync.h", "share/man/man1/rowsync.1",
                 "share/bash-completion/completions/rowsync"):
        assert (installed / path).is_file(), path
    header = (installed / "include" / "rowsync.h").read_text()
    version = re.search(r'ROWSYNC_VERSION "(.*)"', header).group(1)
    assert pkg_config(installed, "--modversion") == [version]
    assert run(installed / "bin" / "rowsync", "--version") == f"rowsync {version}\n"
    assert f'"rowsync {version}"' in (installed / "share/man/man1/rowsync.1").read_text()


def declared(installed):
    """The functions of the header, each with the comment above it."""
    header = (installed / "include" / "rowsync.h").read_text()
    return dict(reversed(found) for found in re.findall(
        r"(/\*(?:[^*]|\*(?!/))*\*/)?\n    [\w ]*?[ *](rowsync_\w+)\((?:[^;{]*)\);", header))


def exported(path, *options):
    """The names that others can link to."""
    lines = run("nm", "--defined-only", "--extern-only", *options, path).splitlines()
    return {line.split()[2] for line in lines if len(line.split()) == 3}


def test_the_header_is_what_the_libraries_export(installed):
    """Nothing of the inside can clash with an app's own names, and nothing is left undocumented."""
    functions = declared(installed)
    assert len(functions) > 20
    assert [name for name, comment in functions.items()
            if not comment and not name.startswith(("rowsync_message", "rowsync_hint", "rowsync_push",
                                                    "rowsync_pull"))] == []
    assert exported(installed / "lib/librowsync.so.0", "--dynamic") == set(functions)
    assert exported(installed / "lib/rowsync/rowsync.so", "--dynamic") == {"sqlite3_rowsync_init"}
    if not SANITIZE:
        assert exported(installed / "lib/librowsync.a") == set(functions)


def test_the_header_is_good_for_any_compiler(installed, tmp_path):
    source = tmp_path / "app.c"
    source.write_text("#include <rowsync.h>\nint main(void) { return rowsync_error(NULL) == 0; }\n")
    for standard in ("c99", "c11", "c17"):
        run("cc", f"-std={standard}", "-pedantic", "-Wall", "-Wextra", "-Werror", "-fsyntax-only",
            f"-I{installed}/include", source)


@pytest.mark.parametrize("kind", ["shared", "static"])
def test_an_app_links_what_pkg_config_says(installed, tmp_path, kind):
    """Also one that has functions of the names that the library uses inside."""
    source = tmp_path / "app.c"
    source.write_text("""#include <rowsync.h>
        #include <sqlite3.h>
        int buffer_append(void);
        int buffer_append(void) { return 7; }
        int main(void) {
            sqlite3 *db; rowsync *sync;
            return sqlite3_open(":memory:", &db) || rowsync_open(db, NULL, &sync) ||
                rowsync_init(sync) || (rowsync_close(sync), sqlite3_close(db)) || buffer_append() != 7;
        }""")
    flags = pkg_config(installed, "--cflags", "--libs")
    if kind == "static":
        # The library itself from its archive; what it needs is the system's, and shared.
        needs = pkg_config(installed, "--print-requires-private")
        flags = [str(installed / "lib/librowsync.a") if flag == "-lrowsync" else flag
                 for flag in flags] + run("pkg-config", "--libs", *needs).split() + ["-pthread", "-lm"]
    sanitize = [f"-fsanitize={SANITIZE}"] if SANITIZE else []
    app = tmp_path / "app"
    run("cc", *sanitize, source, "-o", app, *flags)
    run(app, LD_LIBRARY_PATH=str(installed / "lib"))


def test_the_manual_page_has_every_command_and_option(installed):
    page = (installed / "share/man/man1/rowsync.1").read_text().replace("\\-", "-")
    words = run(installed / "bin" / "rowsync", "--help")
    commands = re.findall(r"^  (\w+) ", words.split("Exit status")[0], re.MULTILINE)
    options = {option for command in commands
               for option in re.findall(r"(--[\w-]+)", run(installed / "bin/rowsync", "help", command))}
    completion = (installed / "share/bash-completion/completions/rowsync").read_text()
    assert len(commands) > 15 and len(options) > 15
    for name in [*commands, *options]:
        assert name in completion or name in options, name
        assert re.search(rf"\b{name.lstrip('-')}\b", page), name


def test_a_library_without_libcurl_asks_for_a_transport(installed, tmp_path):
    run("make", "-s", "-C", CLIENT, "lib", "CURL=no", f"BUILD={tmp_path}", "CFLAGS=-O0",
        "SANITIZE=")
    assert "curl_" not in run("nm", tmp_path / "lib" / "librowsync.so")
    (tmp_path / "open.c").write_text("""
        #include <rowsync.h>
        #include <sqlite3.h>
        #include <stdio.h>

        static rowsync_code none(void *context, const rowsync_request *request, rowsync_sink sink,
            void *sink_context, rowsync_response *response, const volatile int *cancelled)
        {
            (void)context, (void)request, (void)sink, (void)sink_context, (void)cancelled;
            response->status = 404;
            return ROWSYNC_OK;
        }

        int main(void)
        {
            rowsync_transport own = {NULL, none, NULL};
            rowsync_options options = {.transport = &own};
            sqlite3 *db;
            rowsync *sync;
            rowsync_code without;

            sqlite3_open(":memory:", &db);
            without = rowsync_open(db, NULL, &sync);
            printf("%d %s\\n", without, rowsync_hint(sync));
            rowsync_close(sync);
            return rowsync_open(db, &options, &sync) + rowsync_init(sync);
        }""")
    run(os.environ.get("CC", "cc"), "-Wall", "-Wextra", "-Werror", tmp_path / "open.c", "-o",
        tmp_path / "open", f"-I{installed}/include", tmp_path / "lib" / "librowsync.a", "-lsqlite3",
        "-lcrypto", "-lz", "-pthread", "-lm")
    assert run(tmp_path / "open") == "2 Give one in rowsync_options.\n"


def test_completion_offers_commands_tables_and_policies(installed, tmp_path):
    path = tmp_path / "app.db"
    run("sqlite3", path, "CREATE TABLE users (id)", "CREATE TABLE posts (id)")
    script = installed / "share/bash-completion/completions/rowsync"

    def offers(*words):
        """What is offered for the last of these words."""
        return run("bash", "-c", 'source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); '
                   '_rowsync; printf "%s\\n" "${COMPREPLY[@]}"', script, installed / "bin/rowsync",
                   *words).split()
    assert offers("re") == ["resolve", "rejected", "requeue"]
    assert sorted(offers("track", path, "")) == ["posts", "users"]
    assert offers("track", path, "posts", "--policy", "m") == ["merge", "manual"]
    assert offers("sync", path, "--b") == ["--batch-size"]
    assert offers("status", path, "--") == ["--json", "--version", "--help"]


def test_one_notes_app_in_c_python_and_node(installed, database, gateway, tmp_path):
    for statement in (EXAMPLES / "notes.sql").read_text().strip().split(";\n"):
        database.rows(statement.rstrip(";"))
    assert len((EXAMPLES / "notes.c").read_text().splitlines()) < 150
    binary = tmp_path / "notes"
    run(os.environ.get("CC", "cc"), "-Wall", "-Wextra", "-Werror", EXAMPLES / "notes.c", "-o",
        binary, *([f"-fsanitize={SANITIZE}"] if SANITIZE else []),
        *pkg_config(installed, "--cflags", "--libs"))
    environment = {"LD_LIBRARY_PATH": str(installed / "lib"),
                   "ROWSYNC_EXTENSION": str(installed / "lib" / "rowsync" / "rowsync"),
                   "ROWSYNC_TOKEN": rig.mint("ann", None), "NODE_NO_WARNINGS": "1"}

    def app(name, *program, **more):
        """One of the apps on a database of its own."""
        return lambda *arguments: run(*program, tmp_path / name, *arguments, **environment, **more)
    in_c = app("c.db", binary)
    in_python = app("python.db", sys.executable, EXAMPLES / "notes.py", **preload())
    in_node = app("node.db", node.binary(), EXAMPLES / "notes.js", **preload())
    for notes in (in_c, in_python, in_node):
        notes("setup", gateway.url, "ann")
    in_c("add", "Buy milk")
    in_python("add", "Call Bea")
    in_node("add", "Do it")
    assert in_c("sync") == "1 up, 0 down, 0 rejected\n"
    assert in_python("sync") == "1 up, 1 down, 0 rejected\n"
    assert in_node("sync") == "1 up, 2 down, 0 rejected\n"
    in_python("sync")
    in_python("done", "1")
    in_node("done", "2")
    for notes in (in_python, in_node, in_c, in_python):
        notes("sync")
    assert in_c("list") == in_python("list") == in_node("list") == \
        "1 [x] Buy milk\n2 [x] Call Bea\n3 [ ] Do it\n"
    database.rows("REVOKE INSERT ON public.notes FROM business_gateway")
    for notes in (in_c, in_python, in_node):
        notes("add", "Not there")
        assert notes("sync").splitlines()[0].endswith(" down, 1 rejected")
