"""Certificates for the gateways and servers of tests and measurements."""

import subprocess


def certificate(folder, name, address="127.0.0.1"):
    """A self-signed certificate for an address and its key, as two PEM files."""
    chain, key = folder / f"{name}.crt", folder / f"{name}.key"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                    "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", f"/CN={name}",
                    "-addext", f"subjectAltName=IP:{address}", "-keyout", key, "-out", chain],
                   check=True, capture_output=True)
    return chain, key
