"""A proxy between a device and its gateway: it records what is said, and cuts it where told to."""

import dataclasses
import gzip
import http.client
import http.server
import json
import threading


@dataclasses.dataclass
class Exchange:
    """One request and its answer; the bodies are parsed JSON, or None where they are none, and
    `packed` says of both whether they were gzip."""

    method: str
    path: str
    sent: object
    status: int
    received: object
    packed: tuple


class Responder:
    """An HTTP server on a free port of 127.0.0.1, in the background."""

    def __init__(self, respond):
        """Calls `respond` with the handler of each request, whatever its method."""
        class Handler(http.server.BaseHTTPRequestHandler):
            """One connection."""

            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self):
                """Hands one request on."""
                respond(self)

            do_POST = do_GET

            def log_message(self, format, *arguments):
                """Says nothing: what matters is recorded."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = "http://127.0.0.1:%d" % self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01},
                         daemon=True).start()

    def close(self):
        """Takes no more connections."""
        self.server.shutdown()
        self.server.server_close()


class Wire(Responder):
    """Forwards HTTP to a gateway. What it records was seen on the wire, not told by the client."""

    def __init__(self, url):
        """Forwards to the gateway at `url`."""
        self.target = url.split("//", 1)[1]
        self.exchanges = []
        self.cuts = 0
        self.held = ""
        self.open = threading.Event()
        self.open.set()
        super().__init__(self._forward)

    def cut_uploads(self, times=1):
        """Hangs up instead of answering the next uploads, after the gateway has answered them.

        That is the failure that matters most to a device: the server has committed, and nobody heard.
        """
        self.cuts = times

    def hold(self, path="/sync/upload"):
        """Keeps the answers of a path back until `release`."""
        self.held = path
        self.open.clear()

    def release(self):
        """Lets answers pass again."""
        self.open.set()

    def uploads(self):
        """The uploads so far, as (changes sent, statuses received); the list begins anew."""
        seen = [exchange for exchange in self.exchanges
                if exchange.path.split("?")[0] == "/sync/upload"]
        self.exchanges = [exchange for exchange in self.exchanges if exchange not in seen]
        return [(exchange.sent["changes"], exchange.received["statuses"]) for exchange in seen]

    def close(self):
        """Takes no more connections."""
        self.release()
        super().close()

    def _forward(self, near):
        body = near.rfile.read(int(near.headers.get("Content-Length", 0)))
        far = http.client.HTTPConnection(self.target, timeout=60)
        far.request(near.command, near.path, body, dict(near.headers))
        answer = far.getresponse()
        data = answer.read()
        far.close()
        self.exchanges.append(Exchange(
            near.command, near.path, _json(body, near.headers), answer.status,
            _json(data, answer.headers),
            tuple(headers.get("Content-Encoding") == "gzip"
                  for headers in (near.headers, answer.headers))))
        if near.path.startswith(self.held):
            self.open.wait()
        if near.path.startswith("/sync/upload") and self.cuts > 0:
            self.cuts -= 1
            near.close_connection = True
            return
        head = [f"HTTP/1.1 {answer.status} {answer.reason}"]
        head += [f"{name}: {value}" for name, value in answer.getheaders()
                 if name.lower() not in ("connection", "content-length", "transfer-encoding")]
        head.append(f"Content-Length: {len(data)}")
        try:
            near.wfile.write("\r\n".join(head).encode() + b"\r\n\r\n" + data)
        except OSError:
            near.close_connection = True


def _json(data, headers):
    """A body as JSON, unpacked where it is packed."""
    if headers.get("Content-Encoding") == "gzip":
        data = gzip.decompress(data)
    try:
        return json.loads(data)
    except ValueError:
        return None
