"""The tokens that a process keeps."""

from datetime import UTC, datetime

from datasync.flow.tokens import Tokens

NOW = datetime(2025, 8, 23, 12, tzinfo=UTC)


def test_each_tenant_has_its_own_place_for_a_token() -> None:
    """The same key of another tenant is another place."""
    tokens = Tokens(lambda: NOW)

    assert tokens.slot("acme", "mysource", "key") is tokens.slot("acme", "mysource", "key")
    assert tokens.slot("acme", "mysource", "key") is not tokens.slot("newco", "mysource", "key")


def test_the_places_are_limited() -> None:
    """Keys that change with each run do not fill the memory: the oldest are forgotten."""
    tokens = Tokens(lambda: NOW)
    first, last = tokens.slot("acme", "mysource", "first"), tokens.slot("acme", "mysource", "last")
    for number in range(19_999):
        tokens.slot("acme", "mysource", number)

    assert tokens.slot("acme", "mysource", "last") is last
    assert tokens.slot("acme", "mysource", "first") is not first
