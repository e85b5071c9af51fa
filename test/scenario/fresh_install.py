"""fresh-install: an app installed for the first time, a handful of rows, online from the start."""

from . import state
from .app import App
from .parts import check_settled, check_uploads


def fresh_install(world, check):
    """Syncing nothing is fine; then four rows reach the server, and a second sync has nothing to do."""
    app = App(world.device("user-fresh", "device-fresh-001"), "fresh")
    check.equal("the app starts empty", state.device_rows(app.device), {})
    app.device.sync()
    check.equal("syncing nothing leaves it empty", state.device_rows(app.device), {})
    for number in (1, 2):
        app.add_user(number)
        app.add_posts(number, count=1)
    check.equal("{} changes pending", len(state.pending(app.device)), len(app.rows))
    world.wire.uploads()
    report = app.device.sync()
    seen = check_uploads(check, world.wire.uploads(), report, 200)
    check.equal("every change applied: {}", dict(seen), {"applied": 4})
    check_settled(check, world, app, len(app.rows))
    app.device.sync()
    check.equal("a second sync sends nothing", world.wire.uploads(), [])
    check.equal("and changes nothing", state.device_rows(app.device), app.typed_rows())
