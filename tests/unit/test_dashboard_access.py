"""The rights to see data on the dashboard, and to make changes."""

import json
from base64 import b64encode
from http import HTTPStatus

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboard.access import LARGEST_BODY, check_page, operator, reader
from dashboard.web import Refused, Request
from tests.principals import ROLE, principal

AUTH_ON = {"WEBSITE_AUTH_ENABLED": "True"}
FROM_PAGE = {"content-type": "application/json", "x-datasync": "dashboard", "sec-fetch-site": "same-origin"}


def get(**headers: str) -> Request:
    return Request(method="GET", query={}, headers={name.replace("_", "-"): text for name, text in headers.items()})


def post(body: bytes = b"{}", /, **headers: str) -> Request:
    changed = {**FROM_PAGE, **{name.replace("_", "-"): text for name, text in headers.items()}}
    return Request(method="POST", query={}, headers={name: text for name, text in changed.items() if text}, body=body)


def signed_in(*roles: str) -> dict[str, str]:
    return {"x_ms_client_principal": principal(*roles)}


class TestKey:
    def test_the_platform_has_checked_the_key(self) -> None:
        """Everybody with the key may do everything. The name is typed."""
        found = reader("key", get(), {})

        assert (found.mode, found.name, found.can_operate) == ("key", None, True)

    def test_a_key_in_the_address_is_refused(self) -> None:
        """The platform takes it too, and addresses are logged and kept in histories."""
        for ask in (reader, operator):
            request = msgspec.structs.replace(post(), query={"code": "key"})
            with pytest.raises(Refused, match="send the key in the header x-functions-key") as refused:
                ask("key", request, {})
            assert refused.value.status is HTTPStatus.BAD_REQUEST

    def test_a_principal_is_not_read(self) -> None:
        """Without the platform's authentication, anybody can send that header."""
        assert reader("key", get(**signed_in("Operator")), AUTH_ON).name is None


class TestEntra:
    @pytest.mark.parametrize(("roles", "may"), [(("Reader",), False), (("Operator",), True), (("x", "Operator"), True)])
    def test_the_app_roles_decide(self, roles: tuple[str, ...], may: bool) -> None:  # noqa: FBT001
        """A reader sees, an operator changes too."""
        found = reader("entra", get(**signed_in(*roles)), AUTH_ON)

        assert (found.name, found.can_operate) == ("ada@acme.example", may)

    def test_roles_may_have_the_type_that_the_header_names(self) -> None:
        """App Service maps the claims of older registrations to long types."""
        claims = [{"typ": ROLE, "val": "Operator"}, {"typ": "name", "val": "Ada"}]

        found = reader("entra", get(x_ms_client_principal=principal(claims=claims, name_typ=None)), AUTH_ON)

        assert (found.name, found.can_operate) == ("Ada", True)

    @pytest.mark.parametrize("type_", ["http://schemas.microsoft.com/identity/claims/objectidentifier", "oid"])
    def test_a_person_without_a_name_has_the_object_id(self, type_: str) -> None:
        """So the audit still says who it was."""
        claims = [{"typ": "roles", "val": "Operator"}, {"typ": type_, "val": "0f1e-2d3c"}]

        assert reader("entra", get(x_ms_client_principal=principal(claims=claims)), AUTH_ON).name == "0f1e-2d3c"

    @pytest.mark.parametrize("environ", [{}, {"WEBSITE_AUTH_ENABLED": "False"}, {"WEBSITE_AUTH_ENABLED": ""}])
    def test_a_forged_principal_is_refused_while_the_authentication_is_off(self, environ: dict[str, str]) -> None:
        """The platform does not remove the header then."""
        for ask in (reader, check_page):
            with pytest.raises(Refused, match="the authentication of the Function App is off: turn it on") as refused:
                ask("entra", get(**signed_in("Operator")), environ)
            assert refused.value.status is HTTPStatus.FORBIDDEN

    def test_nobody_is_let_in_without_a_principal(self) -> None:
        """App Service lets requests without a sign-in through if it is set to."""
        for ask in (reader, check_page):
            with pytest.raises(Refused, match="nobody is signed in") as refused:
                ask("entra", get(), AUTH_ON)
            assert refused.value.status is HTTPStatus.UNAUTHORIZED

    @pytest.mark.parametrize("roles", [(), ("operator",), ("Operator ",), ("Readers",)])
    def test_other_roles_do_not_count(self, roles: tuple[str, ...]) -> None:
        """Names of roles differ by case too."""
        with pytest.raises(Refused, match="ada@acme.example has neither of the app roles Reader and Operator") as no:
            reader("entra", get(**signed_in(*roles)), AUTH_ON)
        assert no.value.status is HTTPStatus.FORBIDDEN

    def test_the_page_needs_no_role(self) -> None:
        """It has no data, and says what is missing."""
        check_page("entra", get(**signed_in()), AUTH_ON)

    @pytest.mark.parametrize("provider", ["github", "google", "facebook", ""])
    def test_people_of_other_providers_are_refused(self, provider: str) -> None:
        """Anybody can have an account there, and some of their claims can be chosen."""
        with pytest.raises(Refused, match="only people of Entra ID are let in"):
            reader("entra", get(x_ms_client_principal=principal("Operator", auth_typ=provider)), AUTH_ON)

    @pytest.mark.parametrize(
        "text",
        [
            "x",
            "!!!!",
            b64encode(b"{").decode(),
            b64encode(b"null").decode(),
            b64encode(b"[]").decode(),
            b64encode(json.dumps({"auth_typ": "aad"}).encode()).decode(),
            b64encode(json.dumps({"auth_typ": "aad", "claims": [{"typ": "roles", "val": 1}]}).encode()).decode(),
            b64encode(b"[" * 100_000).decode(),
            b64encode(b"\xff\xfe").decode(),
            "ä",
        ],
    )
    def test_a_principal_that_cannot_be_read_is_refused(self, text: str) -> None:
        """Not base64, not JSON, not an object, incomplete, or of other types."""
        with pytest.raises(Refused, match="the sign-in cannot be read") as refused:
            reader("entra", get(x_ms_client_principal=text), AUTH_ON)
        assert refused.value.status is HTTPStatus.UNAUTHORIZED

    @given(st.text())
    def test_no_text_raises_anything_else(self, text: str) -> None:
        """For any content of the header, the answer is a sentence."""
        with pytest.raises(Refused):
            reader("entra", get(x_ms_client_principal=text), AUTH_ON)


class TestOtherSites:
    @pytest.mark.parametrize("site", ["cross-site", "same-site", "x"])
    @pytest.mark.parametrize("mode", ["key", "entra"])
    def test_data_are_not_read_for_another_site(self, mode: str, site: str) -> None:
        """A browser that is signed in sends its cookie for any site."""
        with pytest.raises(Refused, match="another site has asked for this"):
            reader(mode, get(sec_fetch_site=site, **signed_in("Reader")), AUTH_ON)  # type: ignore[arg-type]

    @pytest.mark.parametrize("site", ["same-origin", "none"])
    def test_the_page_and_a_typed_address_are_answered(self, site: str) -> None:
        """`none` is an address that a person has typed."""
        assert reader("key", get(sec_fetch_site=site), {}).can_operate

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({"content_type": "text/plain"}, HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
            ({"content_type": "application/x-www-form-urlencoded"}, HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
            ({"content_type": ""}, HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
            ({"content_type": "application/json-patch+json"}, HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
            ({"x_datasync": ""}, HTTPStatus.FORBIDDEN),
            ({"x_datasync": "Dashboard"}, HTTPStatus.FORBIDDEN),
            ({"sec_fetch_site": ""}, HTTPStatus.FORBIDDEN),
            ({"sec_fetch_site": "none"}, HTTPStatus.FORBIDDEN),
            ({"sec_fetch_site": "same-site"}, HTTPStatus.FORBIDDEN),
            ({"sec_fetch_site": "cross-site"}, HTTPStatus.FORBIDDEN),
        ],
    )
    def test_a_change_comes_from_the_page_only(self, headers: dict[str, str], status: HTTPStatus) -> None:
        """A form of another site cannot send JSON or our header, and the browser says where a request comes from."""
        for ask in (post(**headers), post(**{**signed_in("Operator"), **headers})):
            with pytest.raises(Refused) as refused:
                operator("entra" if "x-ms-client-principal" in ask.headers else "key", ask, AUTH_ON)
            assert refused.value.status is status


class TestChanges:
    def test_an_operator_makes_them(self) -> None:
        """Also with a charset."""
        request = post(content_type="application/json; charset=utf-8", **signed_in("Operator"))

        assert operator("entra", request, AUTH_ON).name == "ada@acme.example"

    def test_a_reader_does_not(self) -> None:
        """The sentence names the role."""
        with pytest.raises(Refused, match="ada@acme.example may read. Changes need the app role Operator") as refused:
            operator("entra", post(**signed_in("Reader")), AUTH_ON)
        assert refused.value.status is HTTPStatus.FORBIDDEN

    def test_a_large_body_is_refused(self) -> None:
        """No change needs one."""
        operator("key", post(b"x" * LARGEST_BODY), {})
        with pytest.raises(Refused, match="the request has 65537 bytes of 65536") as refused:
            operator("key", post(b"x" * (LARGEST_BODY + 1)), {})
        assert refused.value.status is HTTPStatus.REQUEST_ENTITY_TOO_LARGE
