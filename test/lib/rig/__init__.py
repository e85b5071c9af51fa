"""The rig that every test runs on: a private PostgreSQL, a real gateway, real devices.

    cluster = Cluster.start()              a server of our own, on a socket nobody else can reach
    database = cluster.business()          a database with the example schema registered
    gateway = Gateway.start(database)      the real process, on a free port
    device = Device(path, gateway, "ann", "phone")

Everything started here ends with the process that started it, however that one ends.
"""

from .certificate import certificate
from .cluster import Cluster, Database
from .cutter import Cutter
from .device import Device, business_device
from .gateway import Answer, Gateway
from .place import ROOT, Place
from .token import SECRET, mint
from .wire import Exchange, Wire

__all__ = [
    "Answer", "Cluster", "Cutter", "Database", "Device", "Exchange", "Gateway", "Place", "ROOT", "SECRET",
    "Wire", "business_device", "certificate", "mint",
]
