"""complex-multi-batch: heavy offline use, one upload, the app deleted and installed again.

Played four times, each time by another user: as the founding text tells it; in four batches; with
every child before its parent in the batch; and with children and parents in different batches.
"""

import collections
import dataclasses

from . import state
from .app import App
from .parts import check_settled, check_uploads, count, named, outcome

USERS = 60
UPDATED = 30
UPDATES = 4
DELETED = range(51, 61)


@dataclasses.dataclass
class Variant:
    """How the scenario is played: in which order the app writes, in which batches it uploads."""

    name: str
    title: str
    batch_size: int
    children_first: bool = False
    rounds: int = None
    splits: bool = False


VARIANTS = (
    Variant("one-batch", "as told, one batch", 200, rounds=1),
    Variant("four-batches", "as told, batches of 50", 50, rounds=4),
    Variant("children-first", "children before their parents in one batch", 200,
            children_first=True, rounds=1),
    Variant("split", "posts and their users in different batches of 50", 50, children_first=True,
            splits=True),
)


def complex_multi_batch(world, check):
    """All variants, one after the other."""
    for variant in VARIANTS:
        play(world, check, variant)


def play(world, check, variant):
    """One variant from the first edit to the reinstalled app."""
    check.display.title(variant.title)
    user = f"user-complex-{variant.name}"
    app = App(world.device(user, "device-complex-001"), f"complex-{variant.name}")
    full = variant is VARIANTS[0]
    with check.display.phase("Phase 1: offline work", full):
        _work_offline(app, variant)
        _check_pending(check, app)
    changes = len(app.rows) + len(app.gone)
    with check.display.phase("Phase 2: upload"):
        _upload(world, check, app, variant, changes)
    with check.display.phase("Phase 3: both databases", full):
        check_settled(check, world, app, changes)
        check.equal("users in the state of Update #4: {}",
                    sum(row[1].endswith("(Update #4)")
                        for (table, _), row in state.server_rows(world.database, user).items()
                        if table == "users"), UPDATED)
    with check.display.phase("Phase 4: the app deleted and installed again", full):
        _reinstall(world, check, app, changes)


def _work_offline(app, variant):
    """Everything the user does without a network."""
    with app.transaction():
        if variant.children_first:
            for number in range(1, USERS + 1):
                app.add_posts(number)
        for number in range(1, USERS + 1):
            app.add_user(number)
    if not variant.children_first:
        with app.transaction():
            for number in range(1, USERS + 1):
                app.add_posts(number)
    with app.transaction():
        for number in range(1, UPDATED + 1):
            for update_number in range(1, UPDATES + 1):
                app.rename_user(number, update_number)
    with app.transaction():
        for number in DELETED:
            if variant.children_first:
                app.delete_user(number)
                app.delete_posts(number)
            else:
                app.delete_posts(number)
                app.delete_user(number)


def _check_pending(check, app):
    """What waits for upload is the last state of every row, and the old row of every deleted one."""
    check.equal("{} operations", app.operations, 330)
    waiting = state.pending(app.device)
    check.equal("{} pending changes", len(waiting), 180)
    kinds = collections.Counter(
        (change.table, "DELETE" if change.op == "DELETE" else "INSERT or UPDATE")
        for change in waiting)
    check.equal("{} users to insert or update", kinds["users", "INSERT or UPDATE"], 50)
    check.equal("{} users to delete", kinds["users", "DELETE"], 10)
    check.equal("{} posts to insert",
                sum(change.table == "posts" and change.op == "INSERT" for change in waiting), 100)
    check.equal("{} posts to delete", kinds["posts", "DELETE"], 20)
    check.equal("{} of the users carry the state of Update #4",
                sum(change.table == "users" and change.payload["name"].endswith("(Update #4)")
                    for change in waiting), UPDATED)
    check.equal("the payloads are the rows as the app last wrote them: {}",
                {(change.table, change.key): change.payload for change in waiting
                 if change.op != "DELETE"},
                {key: named(key[0], row) for key, row in app.rows.items()})
    check.equal("the deletes carry the old rows: {}",
                {(change.table, change.key): change.payload for change in waiting
                 if change.op == "DELETE"},
                {key: named(key[0], row) for key, row in app.gone.items()})
    check.equal("all on a row the server has not seen: base versions {}",
                {change.base_version for change in waiting}, {0})


def _upload(world, check, app, variant, changes):
    """The network is back: one sync, watched on the wire."""
    world.wire.uploads()
    options = [] if variant.batch_size == 200 else ["--batch-size", variant.batch_size]
    report = app.device.sync(*options)
    uploads = world.wire.uploads()
    seen = check_uploads(check, uploads, report, variant.batch_size)
    check.equal("{} statuses applied", seen["applied"], changes)
    if variant.rounds is not None:
        check.equal("batches needed: {}", len(uploads), variant.rounds)
        check.equal("no other status: {}", set(seen), {"applied"})
    if variant.children_first:
        _check_children_first(check, uploads[0][0])
    if variant.splits:
        _check_retries(check, uploads, seen)


def _check_children_first(check, batch):
    """No post of the first batch has its author before it."""
    places = {change["pk"]: place for place, change in enumerate(batch)}
    posts = [change for change in batch if change["table"] == "posts" and change["op"] != "DELETE"]
    check.true(f"{len(posts)} posts stand in the batch before their users",
               posts and all(places.get(post["payload"]["author_id"], len(batch)) > place
                             for place, post in enumerate(batch) if post in posts))


def _check_retries(check, uploads, seen):
    """Posts without their users were refused, kept, sent again, and applied once."""
    check.equal("no status but applied and fk_missing: {}", set(seen), {"applied", "fk_missing"})
    refused = {change["pk"]: (change["payload"]["author_id"], status["invalid"]["details"])
               for changes, statuses in uploads
               for change, status in zip(changes, statuses) if outcome(status) == "fk_missing"}
    check.true(f"{len(refused)} posts came before their users: fk_missing", refused)
    check.true("each refusal names the missing user",
               all(details["missing"] == [f"business.users:{author}"]
                   for author, details in refused.values()))
    applied = collections.Counter(
        change["pk"] for changes, statuses in uploads
        for change, status in zip(changes, statuses) if outcome(status) == "applied")
    check.true("each was sent again and applied once",
               all(applied[key] == 1 for key in refused))


def _reinstall(world, check, app, changes):
    """The same user and source on an empty database: everything is back."""
    original = app.device
    fresh = world.device(original.user, original.source)
    check.equal("the fresh install is empty: {} rows", state.device_rows(fresh), {})
    check.equal("and knows no versions: {}", state.device_versions(fresh), {})
    fresh.run("hydrate")
    rows = state.device_rows(fresh)
    check.equal("after hydration {} users", count(rows, "users"), count(app.rows, "users"))
    check.equal("and {} posts", count(rows, "posts"), count(app.rows, "posts"))
    check.equal("equal to the original row by row, column by column: {} rows", rows,
                state.device_rows(original))
    check.equal("versions included: {}", _live(state.device_versions(fresh)),
                _live(state.device_versions(original)))
    check.equal("deleted rows present: {}", [key for key in app.gone if key in rows], [])
    check.equal("foreign keys valid: {} orphans", len(state.orphans_on_device(fresh)), 0)
    check.equal("hydration left nothing to upload: {} pending", state.pending(fresh), [])
    _go_on(world, check, app, fresh, changes)


def _live(versions):
    """Only the rows that are not deleted."""
    return {key: meta for key, meta in versions.items() if not meta[1]}


def _go_on(world, check, app, fresh, changes):
    """The reinstalled app works: its next edit reaches the server, as a change of its own."""
    again = App(fresh, app.name)
    again.rows = dict(app.rows)
    again.rename_user(1, UPDATES + 1)
    world.wire.uploads()
    fresh.sync()
    sent = [outcome(status) for _, statuses in world.wire.uploads() for status in statuses]
    check.equal("the reinstalled app's next edit is {}", sent, ["applied"])
    check.equal("it reaches PostgreSQL", state.server_rows(world.database, fresh.user), again.rows)
    check.equal("as entry {} of the log", len(state.server_log(world.database, fresh.user)),
                changes + 1)
