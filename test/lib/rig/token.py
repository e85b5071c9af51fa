"""Tokens for tests, made by hand so that wrong ones can be made too."""

import base64
import hashlib
import hmac
import json
import time

# What the gateways of tests are started with; 32 bytes, the least that HS256 should have.
SECRET = "rowsync-test-secret-rowsync-test"

# The signatures of all tokens made here, which no log may have.
SIGNATURES = set()


def _part(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def mint(user, source, *, secret=SECRET, algorithm="HS256", ttl=3600, header=None, **claims):
    """A token for `user` and `source`; `claims` add to it, or take one away where it is None.

    `algorithm` none makes an unsigned one; `header` adds fields to the JOSE header.
    """
    body = {"sub": user, "did": source, "exp": int(time.time()) + ttl, **claims}
    body = {name: value for name, value in body.items() if value is not None}
    head = {"alg": algorithm, "typ": "JWT", **(header or {})}
    signed = _part(json.dumps(head).encode()) + "." + _part(json.dumps(body).encode())
    if algorithm == "none":
        return signed + "."
    digest = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}[algorithm]
    signature = _part(hmac.new(secret.encode(), signed.encode(), digest).digest())
    SIGNATURES.add(signature)
    return signed + "." + signature
