"""Clients that mean harm: what they send, hold and leave behind costs nobody else anything."""

from gateway_parts import talk


def test_a_client_refused_after_it_was_served_may_leave_as_it_likes(start_gateway):
    gateway = start_gateway(ROWSYNC_LOOPS=1)
    # Its departure comes while the connection is being closed for the second request.
    for _ in range(50):
        received = talk(gateway, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
                        b"GET /healthz HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n1")
        assert received.count(b"HTTP/1.1 200") == received.count(b"HTTP/1.1 400") == 1
    assert gateway.request("GET", "/healthz").status == 200
    assert gateway.stop() == 0
