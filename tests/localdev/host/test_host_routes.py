"""Routes of HTTP triggers: which paths and methods they match."""

import pytest

from localdev.host.routes import Route


def match(template: str, path: str, method: str = "GET", methods: tuple[str, ...] = ()) -> dict[str, str] | None:
    return Route.parse(template, methods).match(method, path)


@pytest.mark.parametrize(
    ("template", "path", "parameters"),
    [
        ("ops", "ops", {}),
        ("/ops/", "OPS", {}),
        ("ops", "ops/x", None),
        ("ops", "", None),
        ("ops/{name}", "ops/app.js", {"name": "app.js"}),
        ("ops/{name}", "ops/J%C3%BCrg", {"name": "Jürg"}),
        ("ops/{name}", "ops/a%2Fb%2fc", {"name": "a%2Fb%2fc"}),
        ("ops/{name}", "ops/a%20b+c", {"name": "a b+c"}),
        ("ops/{name}", "ops/%FF", {"name": "%FF"}),
        ("ops/{name}", "ops/..%2F..", {"name": "..%2F.."}),
        ("ops/{name}", "ops", None),
        ("ops/{name}", "ops//", None),
        ("ops/{name}", "ops/a/b", None),
        ("ops/{name?}", "ops", {}),
        ("ops/{name?}", "ops/a", {"name": "a"}),
        ("files/{*path}", "files/a/b%20c", {"path": "a/b c"}),
        ("files/{*path}", "files", {}),
        ("{*path}", "", {}),
        ("a.b/{x}", "acb/1", None),
        ("{a}/{b}", "1/2", {"a": "1", "b": "2"}),
    ],
)
def test_a_path_matches(template: str, path: str, parameters: dict[str, str] | None) -> None:
    """Literals in any case, parameters for one segment each, and the rest of the path."""
    assert match(template, path) == parameters


@pytest.mark.parametrize(("method", "is_found"), [("GET", True), ("get", True), ("HEAD", False), ("POST", False)])
def test_a_method_that_is_not_listed_does_not_match(method: str, is_found: bool) -> None:  # noqa: FBT001
    """The host adds none, not even HEAD to GET."""
    assert (match("ops", "ops", method, ("GET",)) is not None) is is_found
    assert match("ops", "ops", method) is not None


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("admin/x", "begins with admin or runtime"),
        ("/Administration", "begins with admin or runtime"),
        ("runtime", "begins with admin or runtime"),
        ("a//b", "has an empty segment"),
        ("a/{id:int}", "the local host cannot read '{id:int}'"),
        ("a/{id=1}", "the local host cannot read"),
        ("a/x-{id}", "the local host cannot read"),
        ("a/}", "the local host cannot read"),
        ("{*rest}/a", "must be at the end"),
        ("{a?}/b", "must be at the end"),
        ("{a}/{a}", "the parameter 'a' is there twice"),
    ],
)
def test_other_routes_are_refused(template: str, message: str) -> None:
    """Some are refused by the host too, others have a form that the local host does not have."""
    with pytest.raises(ValueError, match=message):
        Route.parse(template, ())


def test_routes_are_the_same_if_they_have_a_method_in_common() -> None:
    """The host refuses the second one."""
    one, other = Route.parse("ops/{a}", ("GET", "POST")), Route.parse("OPS/{A}/", ("post",))

    assert one.conflicts(other)
    assert one.conflicts(Route.parse("ops/{a}", ()))
    assert not one.conflicts(Route.parse("ops/{a}", ("PUT",)))
    assert not one.conflicts(Route.parse("ops/{b}", ("GET",)))
