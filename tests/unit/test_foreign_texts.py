"""Names and ids from messages and documents in errors: they forge no line, hide nothing, and are bounded."""

import pytest
from azure.core.exceptions import ServiceRequestError

from datasync import FlowRegistry
from datasync.errors import FlowInvalid, FlowUnknown, ServiceUnavailable
from datasync.model.display import is_legible, shown
from datasync.model.tenant import is_tenant_id
from datasync.stores.cosmos import explained
from tests.stages import does_nothing

INVISIBLE = "\u034f\u115f\u1160\u17b4\u180b\u2800\u3164\ufe0f\uffa0\U000e0100"
"""Characters that are printable for Python, and that nobody sees."""


@pytest.mark.parametrize("character", INVISIBLE, ids=ascii)
def test_a_name_with_a_character_that_nobody_sees_is_not_legible(character: str) -> None:
    """Neither tenants nor flows have such names, and a line shows the number of the character."""
    name = f"acme{character}"

    assert not is_legible(name)
    assert not is_tenant_id(name)
    assert shown(name).isascii()
    with pytest.raises(FlowInvalid, match=r"'acme\\[uU]\w+' in .*: a name is a printable text"):
        FlowRegistry().flow(name)(does_nothing)


@pytest.mark.parametrize("name", ["acme", "home-depot→builder-prime", "Ä b", "日本", "😀"])
def test_a_name_in_any_language_is_legible(name: str) -> None:
    """It may have blanks inside."""
    assert is_legible(name)
    assert shown(name) == name


def test_a_name_in_an_error_of_cosmos_db_cannot_forge_a_line() -> None:
    """The host prints the error when it repeats a message."""
    with (
        pytest.raises(ServiceUnavailable, match=r"reading run-1 of acme\\nDONE \\u202e\\x1b\[2J\\u3164"),
        explained("while reading run-1 of acme\nDONE \u202e\x1b[2J\u3164"),
    ):
        raise ServiceRequestError("down")


def test_a_long_name_of_an_unknown_flow_is_cut() -> None:
    """A message may have a name of 48 KB."""
    with pytest.raises(FlowUnknown) as error:
        FlowRegistry().resolve("x" * 48_000)

    assert len(str(error.value)) < 300
    assert "(48002 characters)" in str(error.value)
