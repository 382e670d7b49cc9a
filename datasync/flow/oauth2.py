"""OAuth 2.0 for the requests of a flow: access tokens, kept in the process for each tenant.

https://www.rfc-editor.org/rfc/rfc6749
"""

import re
from collections.abc import AsyncGenerator, Generator, Mapping
from datetime import timedelta
from http import HTTPStatus
from typing import Any, ClassVar, Literal, override
from urllib.parse import quote_plus

import httpx

from datasync.errors import TokenRefused
from datasync.flow.context import FlowRun
from datasync.flow.http import READ
from datasync.flow.responses import response_limits
from datasync.flow.secrets import TenantSecretClient, declared_secret
from datasync.flow.tokens import Token, TokenSlot
from datasync.model.display import quoted, shown

type ClientAuth = Literal["client_secret_basic", "client_secret_post", "none"]
"""How a client names itself to the token endpoint: https://www.rfc-editor.org/rfc/rfc7591#section-2"""

EARLY = timedelta(seconds=60)
"""How long before its end a token is renewed; half of its lifetime, if that is shorter."""

_CLIENT_AUTHS = ("client_secret_basic", "client_secret_post", "none")
_REQUEST = READ | response_limits(max_body=1_000_000, total=timedelta(minutes=1))
_VISIBLE = re.compile(r"[\x21-\x7e]+")  # RFC 6749, appendix A.12
_LONGEST_LIFETIME = 10 * 365 * 24 * 3600  # seconds


class _OAuth2(httpx.Auth):
    """Sends an access token with each request, and gets another one if the API refuses it."""

    _GRANT: ClassVar[str]
    _SECRETS: ClassVar[tuple[str, ...]]
    _REMEDIES: ClassVar[dict[str, str]] = {}

    def __init__(
        self,
        kv: TenantSecretClient,
        run: FlowRun,
        system: str,
        *,
        token_url: str,
        client_auth: ClientAuth = "client_secret_basic",
        **fields: str,
    ) -> None:
        """Make the authentication of one run. Nothing is sent before the first request.

        Args:
            kv: The secrets of the run.
            run: The run, whose HTTP client asks for tokens.
            system: Names the secrets: `{system}--client-id`, and so on, of the tenant, or `shared--…`.
            token_url: The token endpoint.
            client_auth: How the id and the secret of the client are sent: in the header `Authorization`, in the body,
                or the id alone.
            fields: Further fields of the request for a token: `scope`, `audience`, `resource`.

        Raises:
            ValueError: `client_auth` is not one of these, or a field has its value from the vault.

        """
        if client_auth not in _CLIENT_AUTHS:
            raise ValueError(f"client_auth={client_auth!r}: expected one of {', '.join(map(repr, _CLIENT_AUTHS))}")
        if own := fields.keys() & {"grant_type", "client_id", "client_secret", "refresh_token"}:
            raise ValueError(f"{min(own)}=…: leave it out. Credentials come from the secrets of {system} in Key Vault")
        self._kv = kv
        self._run = run
        self._system = system
        self._url = token_url
        self._client_auth = client_auth
        self._fields = fields
        self._names = [name for name in self._SECRETS if name != "client_secret" or client_auth != "none"]
        self._redacted: Token | None = None

    @override
    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        token = await self._token()
        request.headers["Authorization"] = f"Bearer {token.value}"
        response = yield request
        if response.status_code != HTTPStatus.UNAUTHORIZED:
            return
        another = await self._token(instead_of=token)
        if another != token and isinstance(request.stream, httpx.ByteStream):  # others can be sent only once
            request.headers["Authorization"] = f"Bearer {another.value}"
            yield request

    @override
    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response]:
        raise TypeError(f"{type(self).__name__} is for run.http, which is asynchronous")

    async def _token(self, instead_of: Token | None = None) -> Token:
        slot = self._slot
        refusals, token = slot.refusals, slot.usable(instead_of)
        if token is None:
            async with slot.lock:
                token = slot.usable(instead_of)
                if token is None and slot.refusal and slot.refusals != refusals:  # while this request waited
                    await self._latest(await self._stored(), slot)  # the server may have repeated a secret
                    raise TokenRefused(str(slot.refusal)) from slot.refusal.__cause__
                token = token or await self._renewed(slot)
        if token != self._redacted:
            await self._kv.redact(f"{self._system}--access-token", token.value)
            self._redacted = token
        return token

    @property
    def _slot(self) -> TokenSlot:
        fields = frozenset(self._fields.items())
        return self._kv.token_slot(self._system, (self._GRANT, self._url, self._client_auth, fields))

    async def _renewed(self, slot: TokenSlot) -> Token:
        try:
            slot.token = await self._issued(slot)
        except TokenRefused as error:
            slot.refusals, slot.refusal = slot.refusals + 1, error
            raise
        return slot.token

    async def _issued(self, slot: TokenSlot) -> Token:
        stored = await self._stored()
        sent = await self._latest(stored, slot)
        issued, response = slot.now(), await self._asked(sent)
        if self._is_refusal(response):
            self._kv.read_again()
            stored = await self._stored()
            if stored != sent:
                slot.replaced = None
                sent, issued, response = stored, slot.now(), await self._asked(stored)
        answer = self._granted(response)
        await self._note_replacement(answer, stored, sent, slot)
        lifetime = _lifetime(answer.get("expires_in"))
        renew = issued + lifetime - min(EARLY, lifetime / 2) if lifetime is not None else None
        return Token(answer["access_token"], issued, renew)

    async def _stored(self) -> dict[str, str]:
        """Read the credentials: `client_id` is the secret `{system}--client-id`."""
        secrets = [await self._kv.get_secret(self._secret(name)) for name in self._names]
        return {name: secret.value or "" for name, secret in zip(self._names, secrets, strict=True)}

    def _secret(self, name: str) -> str:
        return declared_secret(self._run.tenant.id, f"{self._system}--{name.replace('_', '-')}")

    async def _latest(self, stored: dict[str, str], slot: TokenSlot) -> dict[str, str]:
        """Return the credentials with the refresh token that the server has issued in the place of the stored one."""
        if slot.replaced is None or slot.replaced[0] != stored.get("refresh_token"):
            return stored
        await self._kv.redact(f"{self._system}--refresh-token", slot.replaced[1])
        return {**stored, "refresh_token": slot.replaced[1]}

    async def _asked(self, credentials: Mapping[str, str]) -> httpx.Response:
        data, auth = {"grant_type": self._GRANT, **self._fields, **credentials}, None
        if self._client_auth == "client_secret_basic":  # RFC 6749, section 2.3.1
            auth = httpx.BasicAuth(quote_plus(data.pop("client_id")), quote_plus(data.pop("client_secret")))
        return await self._run.http.request(
            "POST",
            self._url,
            data=data,
            auth=auth,
            headers={"Accept": "application/json"},
            extensions=_REQUEST,
            follow_redirects=False,  # the body has secrets
        )

    @staticmethod
    def _is_refusal(response: httpx.Response) -> bool:
        """Return whether another try with the same credentials would not help. Some servers send errors with a 200."""
        if response.status_code == HTTPStatus.TOO_MANY_REQUESTS:
            return False
        return response.is_client_error or (response.is_success and isinstance(_object(response).get("error"), str))

    def _granted(self, response: httpx.Response) -> dict[str, Any]:
        """Return the answer with an access token.

        Raises:
            TokenRefused: it is an error (RFC 6749, section 5.2), or has no token that can be sent.
            httpx.HTTPStatusError: the server fails, or redirects.

        """
        answer, place = _object(response), f"{self._system}: {response.url.host} gave no access token"
        if self._is_refusal(response):
            error = TokenRefused(f"{place} (HTTP {response.status_code}){self._explained(answer)}")
            raise error from _status_error(response)
        response.raise_for_status()
        token, kind = answer.get("access_token"), answer.get("token_type", "bearer")
        if not isinstance(token, str) or not token:
            found = shown(", ".join(sorted(answer))) or "nothing, or it is not a JSON object"
            raise TokenRefused(f"{place}. Its answer has {found}. Is token_url={shown(self._url)} the token endpoint?")
        if not _VISIBLE.fullmatch(token):
            raise TokenRefused(f"{place} that a header can have: it has characters other than visible ASCII")
        if not isinstance(kind, str) or not kind.lower().startswith("bearer"):
            raise TokenRefused(
                f"{place} of the type bearer, but {quoted(kind)}. Let {self._system} issue bearer tokens"
            )
        return answer

    def _explained(self, answer: Mapping[str, Any]) -> str:
        code, text = (shown(str(answer.get(name) or "")) for name in ("error", "error_description"))
        remedy = (self._REMEDIES | _REMEDIES).get(code, "check {secrets}, token_url={url}, and the further fields")
        named = [f"{self._system}--{name.replace('_', '-')}" for name in self._names]
        secrets = f"the secret{'s' * (len(named) > 1)} {' and '.join(named)}"
        remedy = remedy.format(secrets=secrets, system=self._system, url=shown(self._url), auth=self._client_auth)
        return "".join(
            (f": {code}" if code else "", f": {text.rstrip('.')}" if text else "", f". To correct it, {remedy}")
        )

    async def _note_replacement(
        self, answer: Mapping[str, Any], stored: Mapping[str, str], sent: Mapping[str, str], slot: TokenSlot
    ) -> None:
        """Keep a new refresh token, with which the old one may have become invalid: RFC 6749, section 6."""
        before, after = sent.get("refresh_token"), answer.get("refresh_token")
        if before is None or not isinstance(after, str) or after in ("", before):
            return
        slot.replaced = (stored["refresh_token"], after)
        name = f"{self._system}--refresh-token"
        await self._kv.redact(name, after)
        self._run.log.warning(
            "%s has issued a new refresh token. Only this process has it, until it ends: flows cannot write to Key "
            "Vault, so the secret %s has the old one, and other processes send that. If %s accepts a refresh token "
            "once, their runs will fail. Turn the rotation of refresh tokens off there, or use its client credentials",
            self._system,
            name,
            self._system,
        )


class ClientCredentials(_OAuth2):
    """Authentication as the client itself: `run.http.get(url, auth=ClientCredentials(kv, run, "mysource", …))`.

    Reads the secrets `{system}--client-id` and `{system}--client-secret`: RFC 6749, section 4.4.

    A token is kept in the process for its tenant, and renewed once for all requests and runs that need it. After an
    answer 401 the request is sent once more, with another token.

    Raises, where a request is made:
        TokenRefused: the server gave no token.
        RetryLater, httpx.HTTPError: as for any request, also of the token request.
        SecretNotFound, ServiceUnavailable: as `kv` does.
    """

    _GRANT = "client_credentials"
    _SECRETS = ("client_id", "client_secret")


class RefreshToken(_OAuth2):
    """Authentication for a user who has consented once: as ClientCredentials, with a refresh token.

    Reads the secret `{system}--refresh-token` too: RFC 6749, section 6. If the server issues another refresh token, the
    process uses that from then on, and logs a warning: the vault has the old one.
    """

    _GRANT = "refresh_token"
    _SECRETS = ("client_id", "client_secret", "refresh_token")
    _REMEDIES: ClassVar = {
        "invalid_grant": "get another refresh token and store it as {system}--refresh-token. If {system} accepts a "
        "refresh token only once, the one in the vault has been used: turn the rotation of refresh tokens off there"
    }


_REMEDIES = {
    "invalid_client": "check {secrets}, or give another client_auth than {auth!r}",
    "unauthorized_client": "allow this client of {system} the grant, or store another client in {secrets}",
    "invalid_scope": "pass a scope that {system} knows and this client may have",
}
"""By the codes of RFC 6749, section 5.2."""


def _status_error(response: httpx.Response) -> httpx.HTTPStatusError | None:
    """Return the error of an answer, by which the record knows its status and host."""
    try:
        response.raise_for_status()
    except httpx.HTTPStatusError as error:
        return error
    return None


def _object(response: httpx.Response) -> dict[str, Any]:
    """Return the JSON object of an answer; an empty one if it is something else."""
    try:
        answer = response.json()
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _lifetime(expires_in: object) -> timedelta | None:
    """Return the lifetime of a token. Some servers send seconds as a text. None if it is not known."""
    try:
        seconds = float(expires_in) if isinstance(expires_in, int | float | str) else -1
    except (ValueError, OverflowError):
        return None
    return timedelta(seconds=min(seconds, _LONGEST_LIFETIME)) if seconds >= 0 else None
