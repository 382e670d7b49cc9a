"""The token endpoint of a Function App's managed identity. DefaultAzureCredential works with it unchanged."""

import base64
import json
import time
from typing import Any, Final

from aiohttp import web

TENANT = "00000000-0000-0000-0000-000000000001"
PRINCIPAL = "00000000-0000-0000-0000-000000000002"
TOKEN_SECONDS = 24 * 3600
ISSUER = f"https://sts.windows.net/{TENANT}/"

type Claims = dict[str, Any]


class TokenEndpoint:
    """Answers `GET ?resource=<audience>` as App Service does. Requests must have the secret `header`."""

    def __init__(self, header: str) -> None:
        self.header: Final = header
        self.issued = 0
        """The number of tokens issued."""

    def application(self) -> web.Application:
        """Make the web application. The endpoint is at its root."""
        application = web.Application()
        application.router.add_get("/", self._token)
        return application

    async def _token(self, request: web.Request) -> web.Response:
        if request.headers.get("X-IDENTITY-HEADER") != self.header:
            return web.json_response({"statusCode": 401, "message": "X-IDENTITY-HEADER is wrong."}, status=401)
        resource = request.query.get("resource")
        if not resource:
            return web.json_response({"statusCode": 400, "message": "resource is missing."}, status=400)
        self.issued += 1
        expires = int(time.time()) + TOKEN_SECONDS
        return web.json_response(
            {
                "access_token": issue_token(resource, expires),
                "expires_on": str(expires),
                "resource": resource,
                "token_type": "Bearer",
                "client_id": PRINCIPAL,
            }
        )


def issue_token(audience: str, expires: int) -> str:
    """Make a JWT with the claims that Azure's services read. It is not signed, as no local part checks signatures.

    `expires` is in seconds since 1970.
    """
    issued = int(time.time()) - 1
    claims: Claims = {
        "aud": audience,
        "iss": ISSUER,
        "iat": issued,
        "nbf": issued,
        "exp": expires,
        "oid": PRINCIPAL,
        "sub": PRINCIPAL,
        "tid": TENANT,
        "ver": "1.0",
    }
    return ".".join([_encode({"alg": "none", "typ": "JWT"}), _encode(claims), "local"])


def read_claims(token: str) -> Claims:
    """Return the claims of a token, or an empty dict if `issue_token` did not make it."""
    try:
        body = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except (IndexError, ValueError):
        return {}
    return claims if isinstance(claims, dict) and claims.get("iss") == ISSUER else {}


def _encode(part: Claims) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
