"""Decides on the rights of a person: to see data, and to make changes.

Mode `key`: the platform has checked the function key of the request before this code runs. Everybody who has the key
may do everything, and types a name for the audit.

Mode `entra`: the authentication of App Service checks the sign-in, and puts the person into the header
`X-MS-CLIENT-PRINCIPAL`. It removes this header from requests that come from outside, so the header can be believed only
while that authentication is on; the platform says so in WEBSITE_AUTH_ENABLED. The app roles `Reader` and `Operator` of
the app registration decide.

Sources: https://learn.microsoft.com/azure/app-service/configure-authentication-user-identities (the header, its claims,
and that it cannot come from outside), …/app-service/reference-app-settings (WEBSITE_AUTH_ENABLED).
"""

import binascii
from base64 import b64decode
from collections.abc import Mapping
from http import HTTPStatus
from typing import Literal

import msgspec

from dashboard.web import Refused, Request

type Mode = Literal["key", "entra"]

READER = "Reader"
OPERATOR = "Operator"

LARGEST_BODY = 65_536
"""The most bytes of a change, but for that of a tenant document."""

LARGEST_DOCUMENT = 4 * 1024 * 1024
"""The most bytes of the change of a tenant document: Cosmos DB keeps up to 2 MB, and spaces and escapes add to them."""

_ROLES = "roles"
_NAMES = (
    "preferred_username",
    "upn",
    "email",
    "name",
    "http://schemas.microsoft.com/identity/claims/objectidentifier",
    "oid",
)
"""Types of claims. The last two have the object id, which every person has."""


class Visitor(msgspec.Struct, frozen=True, rename="camel"):
    """The person who uses the page."""

    mode: Mode
    name: str | None
    """The sign-in name, or the object id of a person without one; None in mode `key`, in which a name is typed."""
    can_operate: bool


class _Claim(msgspec.Struct, frozen=True):
    typ: str
    val: str


class _Principal(msgspec.Struct, frozen=True):
    auth_typ: str
    claims: tuple[_Claim, ...]
    name_typ: str | None = None
    role_typ: str | None = None

    def values(self, *types: str | None) -> list[str]:
        return [claim.val for type_ in types if type_ for claim in self.claims if claim.typ == type_]


def reader(mode: Mode, request: Request, environ: Mapping[str, str]) -> Visitor:
    """Return the person who asks for data.

    Raises:
        Refused: nobody is signed in, the person has no role, another site makes the browser ask, or the address has
            the function key.

    """
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise Refused(HTTPStatus.FORBIDDEN, "another site has asked for this. Open the page itself")
    if "code" in request.query:  # the platform takes it, and addresses are logged and kept in histories
        raise Refused(HTTPStatus.BAD_REQUEST, "send the key in the header x-functions-key, not in the address")
    if mode == "key":
        return Visitor(mode=mode, name=None, can_operate=True)
    principal = _principal(request, environ)
    roles = principal.values(principal.role_typ, _ROLES)
    names = principal.values(principal.name_typ, *_NAMES)
    name = next(filter(None, names), "?")
    if not {READER, OPERATOR} & set(roles):
        raise Refused(
            HTTPStatus.FORBIDDEN, f"{name} has neither of the app roles {READER} and {OPERATOR}. Ask for one of them"
        )
    return Visitor(mode=mode, name=name, can_operate=OPERATOR in roles)


def operator(mode: Mode, request: Request, environ: Mapping[str, str], largest: int = LARGEST_BODY) -> Visitor:
    """Return the person who asks for a change, which has at most `largest` bytes.

    A browser sets `Sec-Fetch-Site` itself and no page can change it. A page of another site cannot send our header, or
    JSON, without asking first, which no route allows.

    Raises:
        Refused: as `reader`; or the request does not come from the page, is too large, or the person may only read.

    """
    headers = request.headers
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send JSON, with the header Content-Type: application/json")
    if headers.get("x-datasync") != "dashboard" or headers.get("sec-fetch-site") != "same-origin":
        raise Refused(
            HTTPStatus.FORBIDDEN,
            "changes are made on the page only: the headers X-DataSync: dashboard and Sec-Fetch-Site: same-origin "
            "are missing. Scripts use the command line",
        )
    visitor = reader(mode, request, environ)
    if not visitor.can_operate:
        raise Refused(HTTPStatus.FORBIDDEN, f"{visitor.name} may read. Changes need the app role {OPERATOR}")
    if len(request.body) > largest:
        raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the request has {len(request.body)} bytes of {largest}")
    return visitor


def check_page(mode: Mode, request: Request, environ: Mapping[str, str]) -> None:
    """Check a request for the page or one of its files, which hold no data. Raises Refused in mode `entra`."""
    if mode == "entra":
        _principal(request, environ)


def _principal(request: Request, environ: Mapping[str, str]) -> _Principal:
    if environ.get("WEBSITE_AUTH_ENABLED", "").lower() != "true":
        raise Refused(
            HTTPStatus.FORBIDDEN,
            "DASHBOARD is entra, and the authentication of the Function App is off: turn it on "
            "(docs/deploy.md, Sign in with Entra ID)",
        )
    text = request.headers.get("x-ms-client-principal", "")
    if not text:
        raise Refused(HTTPStatus.UNAUTHORIZED, "nobody is signed in. Load the page again to sign in")
    try:
        found = msgspec.json.decode(b64decode(text, validate=True), type=_Principal)
    except (binascii.Error, ValueError, msgspec.DecodeError, RecursionError):
        raise Refused(HTTPStatus.UNAUTHORIZED, "the sign-in cannot be read. Sign out and in again") from None
    if found.auth_typ != "aad":
        raise Refused(HTTPStatus.FORBIDDEN, "only people of Entra ID are let in: remove the other identity providers")
    return found
