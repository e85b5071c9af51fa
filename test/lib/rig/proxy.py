"""A TCP proxy that cuts connections where a test says so."""

import socket
import threading


class CuttingProxy:
    """Forwards to a local port; once armed, swallows the answer to a request and hangs up.

    That is the failure that matters most to a device: the server has committed, and nobody heard.
    """

    def __init__(self, port, wanted=b"POST /sync/upload"):
        """Listens on a free port of 127.0.0.1 and forwards to `port`.

        `wanted` is what a request begins with whose answer is to be swallowed.
        """
        self.target = port
        self.wanted = wanted
        self.remaining = 0
        self.swallowed = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = "http://127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, times=1):
        """Swallows the answers to the next `times` requests of the wanted kind."""
        self.remaining = times

    def close(self):
        """Takes no more connections."""
        self.listener.close()

    def _accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near):
        """One connection: copies both ways until one side ends or the answer is to be swallowed."""
        far = socket.create_connection(("127.0.0.1", self.target))
        cutting = threading.Event()
        threading.Thread(target=self._copy_requests, args=(near, far, cutting), daemon=True).start()
        while True:
            try:
                data = far.recv(65536)
            except OSError:
                data = b""
            if data and cutting.is_set():
                self.swallowed.append(data)
            if not data or cutting.is_set():
                break
            near.sendall(data)
        _hang_up(near)
        _hang_up(far)

    def _copy_requests(self, near, far, cutting):
        """Copies what the device sends; notices the request whose answer is to be cut."""
        while True:
            try:
                data = near.recv(65536)
                if not data:
                    break
                if self.remaining > 0 and data.startswith(self.wanted):
                    self.remaining -= 1
                    cutting.set()
                far.sendall(data)
            except OSError:
                break
        _hang_up(far)


def _hang_up(connection):
    """Ends a connection both ways; the thread that reads it wakes up."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    connection.close()
