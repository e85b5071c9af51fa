"""Who gets in: tokens, keys, and how exactly wrong ones are refused."""

import base64
import json
import re
import signal
import time

import pytest
from gateway_parts import eventually, parse, problem, talk


NAMED = '"alg" is none of HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512.'


@pytest.mark.parametrize("header, code, detail", [
    (None, "missing_token", "The request has no Authorization header with a bearer token."),
    ("Basic eDp5", "unsupported_scheme",
     'The Authorization header must be "Bearer", a space and the token.'),
    ("Bearer", "unsupported_scheme",
     'The Authorization header must be "Bearer", a space and the token.'),
    ("Bearer abc", "malformed_token",
     "The token is not three base64url parts with dots between them."),
    ("Bearer a.b.c", "malformed_token", "The token's header is no base64url-encoded JSON object."),
    ("Bearer " + "a" * 9000, "malformed_token", "The token is longer than 8192 bytes."),
], ids=["none", "basic", "bare", "word", "rubbish", "long"])
def test_without_a_token_nobody_gets_in(gateway, header, code, detail):
    headers = {} if header is None else {"Authorization": header}
    for method, path in (("POST", "/sync/upload"), ("GET", "/sync/download"),
                         ("GET", "/sync/schema-version")):
        answer = gateway.request(method, path, headers=headers)
        problem(answer, 401, code, detail)
        assert answer.headers["www-authenticate"] == 'Bearer realm="rowsync"' + (
            "" if header is None else ', error="invalid_token"')


@pytest.mark.parametrize("make, code, detail", [
    (lambda mint: mint("ann", "phone", algorithm="none"), "unsupported_algorithm",
     "The token's " + NAMED),
    (lambda mint: mint("ann", "phone", header={"alg": "none"}), "unsupported_algorithm",
     "The token's " + NAMED),
    (lambda mint: mint("ann", "phone", secret="x" * 32), "invalid_signature",
     "The token's signature does not fit its content."),
    (lambda mint: mint("ann", "phone", header={"alg": "RS256"}), "unknown_key",
     'No configured key fits the token\'s "alg" (RS256) and "kid".'),
    (lambda mint: mint("ann", "phone", header={"crit": ["exp"]}), "malformed_token",
     'The token\'s header demands an extension ("crit") that is not supported.'),
    (lambda mint: mint("ann", "phone", exp=None), "missing_claim",
     'The token has no claim "exp" (when it expires).'),
    (lambda mint: mint(None, "phone"), "missing_claim",
     'The token has no claim "sub" (the user).'),
    (lambda mint: mint("ann", None), "missing_claim",
     'The token has no claim "did" (the source), and the request no Rowsync-Source-Id header '
     "instead."),
    (lambda mint: mint("", "phone"), "invalid_claim",
     'The token\'s claim "sub" must be a string of 1 to 255 bytes.'),
    (lambda mint: mint("ann", "x" * 256), "invalid_claim",
     'The token\'s claim "did" must be a string of 1 to 255 bytes.'),
    (lambda mint: mint("ann", 7), "invalid_claim",
     'The token\'s claim "did" must be a string of 1 to 255 bytes.'),
    (lambda mint: mint("ann", "phone", exp="soon"), "invalid_claim",
     'The token\'s claim "exp" must be a number of seconds.'),
], ids=["alg-none", "alg-none-signed", "wrong-secret", "no-such-key", "crit", "no-exp", "no-sub",
        "no-did", "empty-sub", "long-did", "number-did", "string-exp"])
def test_a_wrong_token_is_refused_with_its_own_code(gateway, mint, make, code, detail):
    token = make(mint)
    answer = gateway.request("POST", "/sync/upload", {"changes": []}, token=token)
    problem(answer, 401, code, detail)
    assert token.split(".")[1] not in json.dumps(answer.body)


def test_times_have_a_minute_of_leeway(gateway, mint):
    answer = gateway.request("GET", "/sync/download", token=mint("ann", "phone", ttl=-61))
    assert (answer.status, answer.body["code"]) == (401, "expired_token")
    assert re.fullmatch(r"The token expired 6[1-9] seconds ago\.", answer.body["detail"])
    answer = gateway.request("GET", "/sync/download",
                           token=mint("ann", "phone", nbf=int(time.time()) + 65))
    assert (answer.status, answer.body["code"]) == (401, "premature_token")
    for token in (mint("ann", "phone", ttl=-55), mint("ann", "phone", nbf=int(time.time()) + 55)):
        assert gateway.request("GET", "/sync/download", token=token).status == 200


def test_issuer_and_audience_are_checked_where_configured(start_gateway, mint):
    gateway = start_gateway(ROWSYNC_JWT_ISSUER="https://id.example",
                            ROWSYNC_JWT_AUDIENCE="rowsync")
    answer = gateway.request("GET", "/sync/download", token=mint("ann", "phone", aud="rowsync"))
    problem(answer, 401, "wrong_issuer",
            'The token\'s "iss" is not the issuer that this server trusts.')
    answer = gateway.request("GET", "/sync/download",
                             token=mint("ann", "phone", iss="https://id.example", aud=["other"]))
    problem(answer, 401, "wrong_audience", 'The token\'s "aud" does not name this server.')
    for audience in ("rowsync", ["other", "rowsync"]):
        token = mint("ann", "phone", iss="https://id.example", aud=audience)
        assert gateway.request("GET", "/sync/download", token=token).status == 200


def test_two_authorization_headers_are_refused(gateway, mint):
    line = f"Authorization: Bearer {mint('ann', 'phone')}\r\n"
    status, body = parse(talk(gateway, (
        f"GET /sync/download HTTP/1.1\r\nHost: x\r\n{line}{line}Connection: close\r\n\r\n"
    ).encode()))
    assert (status, body["code"]) == (401, "malformed_token")


def test_the_source_may_come_in_a_header_but_not_contradict_the_token(gateway, mint):
    def ask(token, source):
        return gateway.request("GET", "/sync/download", token=token,
                             headers={"Rowsync-Source-Id": source})
    problem(ask(mint("ann", "phone"), "tablet"), 400, "source_mismatch",
            'The Rowsync-Source-Id header names another source than the token\'s claim "did".')
    for source in ("", "x" * 256, "\xff"):
        problem(ask(mint("ann", None), source), 400, "invalid_parameter",
                "The Rowsync-Source-Id header must be 1 to 255 bytes of UTF-8.")
    assert ask(mint("ann", None), "phone").status == 200
    assert ask(mint("ann", "phone"), "phone").status == 200


def test_keys_from_a_jwk_set_and_their_rotation(start_gateway, mint, tmp_path):
    """Signed by an independent implementation, PyJWT on OpenSSL."""
    import jwt
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    def number(value, size):
        return base64.urlsafe_b64encode(value.to_bytes(size, "big")).rstrip(b"=").decode()

    def public(key, name):
        if isinstance(key, rsa.RSAPrivateKey):
            parts = key.public_key().public_numbers()
            return {"kty": "RSA", "kid": name, "n": number(parts.n, 256), "e": number(parts.e, 3)}
        parts = key.public_key().public_numbers()
        size = (key.key_size + 7) // 8
        return {"kty": "EC", "kid": name, "crv": f"P-{key.key_size}", "x": number(parts.x, size),
                "y": number(parts.y, size)}

    keys = {"one": rsa.generate_private_key(65537, 2048), "two": ec.generate_private_key(ec.SECP256R1()),
            "three": ec.generate_private_key(ec.SECP384R1()),
            "four": ec.generate_private_key(ec.SECP521R1())}
    path = tmp_path / "keys.json"
    # Issuers publish keys for others too.
    path.write_text(json.dumps({"keys": [public(key, name) for name, key in keys.items()
                                         if name != "two"] + [{"kty": "OKP", "crv": "Ed25519"}]}))
    gateway = start_gateway(ROWSYNC_JWKS_FILE=path, ROWSYNC_JWT_SECRET=None)
    assert [line["message"] for line in gateway.log() if line["event"] == "keys_skipped"] == \
        [f"{path}: key 4 is of a kind that no algorithm here uses"]

    def ask(algorithm, name, kid=True):
        token = jwt.encode({"sub": "ann", "did": "phone", "exp": int(time.time()) + 100},
                           keys[name], algorithm, headers={"kid": name} if kid else {})
        answer = gateway.request("GET", "/sync/schema-version", token=token)
        return answer.status if answer.status == 200 else answer.body["code"]

    for algorithm in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"):
        assert ask(algorithm, "one") == 200
        assert ask(algorithm, "one", kid=False) == 200
    assert ask("ES384", "three") == 200
    assert ask("ES512", "four") == 200
    assert ask("ES256", "two") == "unknown_key"
    # A secret that is not configured lets nobody in.
    answer = gateway.request("GET", "/sync/schema-version", token=mint("ann", "phone"))
    assert answer.body["code"] == "unknown_key"

    path.write_text(json.dumps({"keys": [public(keys["two"], "two")]}))
    gateway.server.send_signal(signal.SIGHUP)
    assert eventually(lambda: ask("ES256", "two") == 200 and ask("RS256", "one") == "unknown_key")
    path.write_text('{"keys": [{"kty": "EC"}]}')
    gateway.server.send_signal(signal.SIGHUP)
    assert eventually(lambda: any(line["event"] == "reload_failed" for line in gateway.log()))
    assert ask("ES256", "two") == 200
