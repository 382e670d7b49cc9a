"""Azure Key Vault on this machine: the REST API for secrets, with the token endpoint of an identity.

A deleted secret is gone at once. On Azure it can be recovered, and its name is taken until it is purged.
"""

import re
import secrets as randomness
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec
from aiohttp import web

from localdev.errors import DataDamaged
from localdev.files import replace_file
from localdev.identity import TENANT, TokenEndpoint, read_claims
from localdev.tls import Certificates
from localdev.web import serving

AUDIENCE = "https://vault.azure.net"
CHALLENGE = f'Bearer authorization="https://login.microsoftonline.com/{TENANT}", resource="{AUDIENCE}"'
NAME = re.compile(r"[0-9a-zA-Z-]{1,127}")

ERRORS = {
    400: ("BadParameter", "The request is not valid."),
    401: ("Unauthorized", "AKV10000: Request is missing a Bearer or PoP token."),
    403: ("Forbidden", "The application does not have secrets get permission on this key vault."),
    429: ("Throttled", "Request was not processed because too many requests were received."),
    500: ("InternalError", "Something went wrong in this key vault."),
    503: ("ServiceUnavailable", "This key vault is not available now."),
}

_PAGE = 25
type _Name = Annotated[str, msgspec.Meta(pattern=f"^{NAME.pattern}$")]
type _Versions = Annotated[list[Version], msgspec.Meta(min_length=1)]
type Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a secret."""

    id: str
    value: str = field(repr=False)
    created: int
    """Seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The vault's answer to a request that is made to fail."""

    status: int
    retry_after: float | None
    """Seconds for the Retry-After header. None leaves it out."""


@dataclass
class KeyVault:
    """A running vault. Tests and the command line change it while it runs."""

    identity: TokenEndpoint
    uri: str = ""
    """A URL that ends with a slash."""

    environ: dict[str, str] = field(default_factory=dict, repr=False)
    """Settings for a child process: the vault's address, the identity, and the trusted certificates."""

    reads: Counter[str] = field(default_factory=Counter)
    """The number of reads of each secret (name in lower case) with a token, failed ones included."""

    file: Path | None = None
    """The file that keeps the secrets. None keeps them in memory."""

    _secrets: dict[str, list[Version]] = field(default_factory=dict, init=False, repr=False)
    _failures: deque[Failure] = field(default_factory=deque, init=False, repr=False)

    def set_secret(self, name: str, value: str) -> None:
        """Add a secret, or a new version of one. Raises ValueError if the name is not valid."""
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a valid secret name: use up to 127 letters, digits and '-'.")
        version = Version(id=randomness.token_hex(16), value=value, created=int(time.time()))
        self._secrets.setdefault(name.lower(), []).append(version)
        self._save()

    def delete_secret(self, name: str) -> None:
        """Remove a secret and all its versions. Raises KeyError if it does not exist."""
        del self._secrets[name.lower()]
        self._save()

    def has_secret(self, name: str) -> bool:
        """Return whether a secret exists."""
        return name.lower() in self._secrets

    def values(self) -> dict[str, str]:
        """Return the newest value of each secret, by name in lower case."""
        return {name: versions[-1].value for name, versions in self._secrets.items()}

    def load(self) -> None:
        """Read the secrets from the file, or make it. Raises DataDamaged."""
        if self.file is None or not self.file.exists():
            self._save()
            return
        try:
            self._secrets = msgspec.json.decode(self.file.read_bytes(), type=dict[_Name, _Versions])
        except (msgspec.MsgspecError, UnicodeDecodeError) as why:
            raise DataDamaged(f"Key Vault: {self.file.name} cannot be read: {why}") from None

    def _save(self) -> None:
        if self.file:
            replace_file(self.file, msgspec.json.encode(self._secrets))

    def fail_next(self, status: int, *, times: int = 1, retry_after: float | None = None) -> None:
        """Make the next `times` requests with a token fail with `status`: 403, 429, 500 or 503."""
        self._failures.extend([Failure(status, retry_after)] * times)

    def application(self) -> web.Application:
        """Make the web application."""
        application = web.Application(middlewares=[self._guard])
        application.router.add_get("/secrets", self._list)
        application.router.add_get("/secrets/{name}", self._get)
        application.router.add_get("/secrets/{name}/", self._get)
        application.router.add_get("/secrets/{name}/{version}", self._get)
        application.router.add_put("/secrets/{name}", self._put)
        application.router.add_delete("/secrets/{name}", self._delete)
        return application

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse requests without a token for a vault, requests that are made to fail, and invalid requests."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        claims = read_claims(token)
        if scheme != "Bearer" or claims.get("aud") != AUDIENCE or claims.get("exp", 0) < time.time():
            return _error(401, headers={"WWW-Authenticate": CHALLENGE})
        if request.method == "GET":
            self.reads[request.match_info.get("name", "").lower()] += 1
        if self._failures:
            failure = self._failures.popleft()
            wait = {} if failure.retry_after is None else {"Retry-After": f"{failure.retry_after:g}"}
            return _error(failure.status, headers=wait)
        if request.path != "/secrets" and not NAME.fullmatch(request.match_info.get("name", "")):
            return _error(400, message=f"This is not a request for a secret: {request.method} {request.path}.")
        if "api-version" not in request.query:
            return _error(400, message="AKV10046: The api-version query parameter is missing.")
        return await handler(request)

    async def _get(self, request: web.Request) -> web.Response:
        name, version = request.match_info["name"], request.match_info.get("version")
        for each in reversed(self._secrets.get(name.lower(), [])):
            if version in (None, each.id):
                return web.json_response(self._bundle(name, each))
        return _not_found(name)

    async def _list(self, request: web.Request) -> web.Response:
        """List the secrets without their values, in pages as the vault does."""
        start, names = int(request.query.get("$skiptoken", "0")), [*self._secrets]
        items = [{"id": f"{self.uri}secrets/{name}", "attributes": {"enabled": True}} for name in names[start:][:_PAGE]]
        following = f"{self.uri}secrets?api-version={request.query['api-version']}&$skiptoken={start + _PAGE}"
        return web.json_response({"value": items, "nextLink": following if start + _PAGE < len(names) else None})

    async def _put(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        try:
            self.set_secret(name, (await request.json())["value"])
        except (KeyError, TypeError, ValueError):
            return _error(400, message='The body must be {"value": …}.')
        return web.json_response(self._bundle(name, self._secrets[name.lower()][-1]))

    async def _delete(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if not self.has_secret(name):
            return _not_found(name)
        bundle = self._bundle(name, self._secrets[name.lower()][-1])
        self.delete_secret(name)
        del bundle["value"]
        return web.json_response(bundle)

    def _bundle(self, name: str, version: Version) -> dict[str, Any]:
        return {
            "value": version.value,
            "id": f"{self.uri}secrets/{name}/{version.id}",
            "attributes": {
                "enabled": True,
                "created": version.created,
                "updated": version.created,
                "recoveryLevel": "Recoverable+Purgeable",
                "recoverableDays": 90,
            },
            "tags": {},
        }


def _not_found(name: str) -> web.Response:
    return _error(
        404,
        code="SecretNotFound",
        message=f"A secret with (name/id) {name} was not found in this key vault. If you recently deleted this "
        "secret you may be able to recover it using the correct recovery command.",
    )


def _error(status: int, *, code: str = "", message: str = "", headers: Mapping[str, str] | None = None) -> web.Response:
    usual = ERRORS.get(status, ("Error", f"HTTP status {status}."))
    error = {"code": code or usual[0], "message": message or usual[1]}
    return web.json_response({"error": error}, status=status, headers=headers)


@asynccontextmanager
async def key_vault(
    secrets: Mapping[str, str],
    *,
    tls: Certificates,
    port: int = 0,
    identity_port: int = 0,
    file: Path | None = None,
) -> AsyncGenerator[KeyVault]:
    """Run a vault (https) and the token endpoint of a managed identity (http) on 127.0.0.1. Port 0 means a free port.

    `secrets` maps names to values. All local parts that accept tokens accept those of the endpoint. With `file`, the
    secrets and their versions are kept there: a change is on the disk before it is answered.
    Raises PortTaken or DataDamaged.
    """
    identity = TokenEndpoint(header=randomness.token_hex(16))
    vault = KeyVault(identity=identity, file=file)
    vault.load()
    for name, value in secrets.items():
        vault.set_secret(name, value)
    async with (
        serving("The managed identity's token endpoint", identity.application(), port=identity_port) as tokens,
        serving("Key Vault", vault.application(), port=port, context=tls.server_context()) as address,
    ):
        vault.uri = f"{address}/"
        vault.environ = {
            "KEY_VAULT_URI": vault.uri,
            "KEY_VAULT_VERIFY_CHALLENGE": "false",  # the address is not in Azure's domain
            "IDENTITY_ENDPOINT": f"{tokens}/",
            "IDENTITY_HEADER": identity.header,
            "AZURE_TOKEN_CREDENTIALS": "ManagedIdentityCredential",
            "SSL_CERT_FILE": str(tls.bundle),
        }
        yield vault
