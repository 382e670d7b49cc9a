"""Temporary certificates for https on this machine."""

import ssl
from dataclasses import dataclass
from pathlib import Path

import certifi
import trustme


@dataclass(frozen=True, slots=True)
class Certificates:
    """The PEM files of a certificate authority and of a server certificate for localhost and 127.0.0.1."""

    authority: Path
    """The certificate of the authority."""

    bundle: Path
    """The authority and the public roots, for SSL_CERT_FILE: public hosts stay reachable."""

    certificate: Path
    """The server's certificate chain."""

    key: Path
    """The server's private key."""

    def server_context(self) -> ssl.SSLContext:
        """Make the SSL context of an https server."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certificate, self.key)
        return context

    def client_context(self) -> ssl.SSLContext:
        """Make the SSL context of a client that trusts the public roots and this authority."""
        return ssl.create_default_context(cafile=self.bundle)


def create_certificates(folder: Path) -> Certificates:
    """Write a new authority, and a server certificate signed by it, into `folder`, which exists."""
    authority = trustme.CA(organization_name="DataSync local tooling")
    server = authority.issue_cert("localhost", "127.0.0.1", "::1")
    certificates = Certificates(
        authority=folder / "authority.pem",
        bundle=folder / "bundle.pem",
        certificate=folder / "server.pem",
        key=folder / "server.key",
    )
    authority.cert_pem.write_to_path(certificates.authority)
    roots = Path(certifi.where()).read_bytes()
    certificates.bundle.write_bytes(roots + b"\n" + authority.cert_pem.bytes())
    certificates.key.touch(mode=0o600)
    server.private_key_pem.write_to_path(certificates.key)
    for number, pem in enumerate(server.cert_chain_pems):
        pem.write_to_path(certificates.certificate, append=number > 0)
    return certificates
