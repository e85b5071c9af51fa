"""The scenarios: what a user's devices go through, step by step, each step checked.

A scenario gets a World (a database, a gateway, a proxy that records the wire) and a Check. What it
compares it reads itself, with SQL of its own on both sides: nothing here believes what the code
under test says of itself.
"""

import contextlib

import rig

from .check import Check
from .complex_multi_batch import complex_multi_batch
from .fk_batch_retry import fk_batch_retry
from .fresh_install import fresh_install

SCENARIOS = {
    "fresh-install": fresh_install,
    "fk-batch-retry": fk_batch_retry,
    "complex-multi-batch": complex_multi_batch,
}


class World:
    """Where a scenario plays: one database with the example schema, one gateway, many devices."""

    def __init__(self, database, wire, folder):
        self.database = database
        self.wire = wire
        self.folder = folder
        self.devices = []

    def device(self, user, source):
        """A newly installed app: an empty database with the example schema, attached."""
        path = self.folder / f"{len(self.devices)}-{user}-{source}.db"
        self.devices.append(rig.business_device(path, self.wire.url, user, source))
        return self.devices[-1]


@contextlib.contextmanager
def world(cluster):
    """A World on a cluster, taken down at the end."""
    with contextlib.ExitStack() as stack:
        database = cluster.business()
        folder = cluster.place.folder(f"devices-{database.name}")
        stack.callback(database.close)
        gateway = rig.Gateway.start(database)
        stack.callback(gateway.stop)
        wire = rig.Wire(gateway.url)
        stack.callback(wire.close)
        place = World(database, wire, folder)
        stack.callback(lambda: [device.close() for device in place.devices])
        yield place


def run(name, cluster, display=None):
    """Plays one scenario and returns its Check: how many comparisons held, and what differs."""
    check = Check(display)
    with world(cluster) as place:
        SCENARIOS[name](place, check)
    return check
