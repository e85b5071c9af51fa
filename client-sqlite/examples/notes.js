/*
 * A notes app in Node.js: the library is loaded into SQLite as an extension.
 *
 *     node notes.js my.db setup http://127.0.0.1:8080 ann
 *     node notes.js my.db add "Buy milk"
 *     ROWSYNC_TOKEN=... node notes.js my.db sync
 *     node notes.js my.db list
 *
 * It works with the package better-sqlite3 where that is installed, and else with node:sqlite, which
 * Node.js has built in since 22.13. ROWSYNC_EXTENSION says where the extension is, when it is not
 * where `make install` puts it.
 */
"use strict";

const { randomUUID } = require("node:crypto");

const EXTENSION = process.env.ROWSYNC_EXTENSION || "/usr/lib/rowsync/rowsync";
const SCHEMA = `CREATE TABLE IF NOT EXISTS notes (
    id TEXT PRIMARY KEY NOT NULL, body TEXT NOT NULL, done INTEGER NOT NULL DEFAULT 0)`;

/* The constructor of databases that the two drivers have in common. */
function driver() {
    try {
        return require("better-sqlite3");
    } catch {
        if (require("node:module").isBuiltin("node:sqlite"))
            return require("node:sqlite").DatabaseSync;
        throw new Error("`npm install better-sqlite3` is needed, or Node.js 22.13 or later");
    }
}

/* Opens the app's database with the extension in it. */
function open(path) {
    const notes = new (driver())(path, { allowExtension: true });
    notes.loadExtension(EXTENSION);
    return notes;
}

/* Once: the table, what rowsync needs, and whose notes these are. */
function setup(notes, url, user) {
    notes.exec(SCHEMA);
    notes.exec("SELECT rowsync_init()");
    notes.exec("SELECT rowsync_track('notes')");
    notes.prepare("SELECT rowsync_attach(?, ?)").get(url, user);
}

/* Writes a note; its key is made here, so that no two devices make the same. */
function add(notes, body) {
    notes.prepare("INSERT INTO notes (id, body) VALUES (?, ?)").run(randomUUID(), body);
}

/* Ticks a note off, by its place in the list. */
function done(notes, place) {
    notes.prepare(`UPDATE notes SET done = 1 WHERE id = (
        SELECT id FROM notes ORDER BY body, id LIMIT 1 OFFSET ?)`).run(Number(place) - 1);
}

/* Prints the notes with their place in the list. */
function list(notes) {
    const rows = notes.prepare("SELECT body, done FROM notes ORDER BY body, id").all();
    rows.forEach((note, i) => console.log(`${i + 1} [${note.done ? "x" : " "}] ${note.body}`));
}

/* Up with what was done here, down with what was done elsewhere. */
function sync(notes) {
    notes.prepare("SELECT rowsync_token(?)").get(process.env.ROWSYNC_TOKEN);
    const report = JSON.parse(notes.prepare("SELECT rowsync_sync() AS report").get().report);
    console.log(`${report.uploaded} up, ${report.downloaded} down, ${report.rejected} rejected`);
    for (const refused of notes.prepare("SELECT pk, message FROM rowsync_rejected").all()) {
        console.log(`refused: ${refused.pk}: ${refused.message}`);
    }
}

const commands = { setup, add, done, list, sync };
const [path, command, ...rest] = process.argv.slice(2);

if (!Object.hasOwn(commands, command ?? "")) {
    console.error("usage: notes.js FILE setup URL USER | add TEXT | done PLACE | list | sync");
    process.exit(1);
}
try {
    commands[command](open(path), ...rest);
} catch (error) {
    console.error(`notes: ${error.message}`);
    process.exit(1);
}
