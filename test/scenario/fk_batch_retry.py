"""fk-batch-retry: children reach the server long before their parents, and nothing is lost."""

from . import state
from .app import App
from .parts import check_settled, check_uploads, outcome

USERS = 10
POSTS_EACH = 4
BATCH = 10


def fk_batch_retry(world, check):
    """Fifty rows, all posts before all users, in batches too small to hold both."""
    app = App(world.device("user-fk", "device-fk-001"), "fk")
    with app.transaction():
        for number in range(1, USERS + 1):
            app.add_posts(number, POSTS_EACH)
        for number in range(1, USERS + 1):
            app.add_user(number)
    check.equal("{} changes pending", len(state.pending(app.device)), 50)
    world.wire.uploads()
    report = app.device.sync("--batch-size", BATCH)
    uploads = world.wire.uploads()
    seen = check_uploads(check, uploads, report, BATCH)
    check.equal("every change applied in the end: {}", seen["applied"], len(app.rows))
    check.equal("every post refused once, for its user was not there: {}", seen["fk_missing"],
                USERS * POSTS_EACH)
    check.equal("and nothing else", set(seen), {"applied", "fk_missing"})
    check.true("each refusal names the missing user",
               all(status["invalid"]["details"]["missing"]
                   == [f"business.users:{change['payload']['author_id']}"]
                   for changes, statuses in uploads
                   for change, status in zip(changes, statuses)
                   if outcome(status) == "fk_missing"))
    check_settled(check, world, app, len(app.rows))
