"""A bad network between a client and a gateway: connections that are cut after some bytes."""

import contextlib
import random
import selectors
import socket
import struct
import threading


class Cutter:
    """Forwards TCP to a port of 127.0.0.1 and cuts connections at random positions.

    Each connection may carry a random number of bytes one way and the other; the byte after is lost
    and both ends find the connection gone, half of them by a reset. `calm()` ends that.
    """

    def __init__(self, port, seed=None, most=20000):
        """Cuts after 0 to `most` bytes of either direction; `port` may be changed at any time."""
        self.port = port
        self.most = most
        self.cuts = 0
        self.random = random.Random(seed)
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.near_port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def calm(self):
        """From now on new connections are left alone."""
        self.most = None

    def close(self):
        """Takes no more connections."""
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                threading.Thread(target=self._forward, args=(near,), daemon=True).start()

    def _budgets(self):
        """Bytes that this connection may carry: from the client, from the gateway."""
        with self.lock:
            if self.most is None:
                return [float("inf")] * 2
            return [self.random.randint(0, self.most) for _ in range(2)]

    def _forward(self, near):
        budgets = self._budgets()
        with near, selectors.DefaultSelector() as selector, contextlib.suppress(OSError):
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as far:
                selector.register(near, selectors.EVENT_READ, (far, 0))
                selector.register(far, selectors.EVENT_READ, (near, 1))
                while True:
                    for key, _ in selector.select():
                        other, way = key.data
                        data = key.fileobj.recv(65536)
                        if not data:
                            return
                        if len(data) > budgets[way]:
                            other.sendall(data[:budgets[way]])
                            self._cut(near, far)
                            return
                        budgets[way] -= len(data)
                        other.sendall(data)

    def _cut(self, *peers):
        """Counts a cut, and makes every other one a reset."""
        with self.lock:
            self.cuts += 1
            reset = self.cuts % 2 == 0
        if reset:
            for peer in peers:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
