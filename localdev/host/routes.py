"""The routes of HTTP triggers, matched as the host matches them.

The host has no endpoint routing. It tries the routes in the order of the functions' names. A method that a function
does not list does not match, as with any other path: the answer is 404, not 405, and HEAD is a method like the others.
Literals are compared without case, and a slash at the end is ignored. `%2F` in a path stays as it is.

A route has literals, `{name}`, and at its end `{name?}` (may be missing) or `{*name}` (the rest of the path, may be
empty). Constraints and defaults (`{id:int}`, `{id=1}`), and parameters inside a segment, exist on Azure but not here.

Sources: Azure/azure-functions-host, WebScriptHostHttpRoutesManager.cs, FunctionMetadataManager.cs (the order) and
ScriptHost.cs (ValidateHttpFunction, HttpRoutesConflict); Azure/azure-webjobs-sdk-extensions, WebJobsRouteBuilder.cs;
dotnet/aspnetcore, HttpMethodRouteConstraint.cs; …/aspnet/core/fundamentals/routing (templates, `%2F`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self
from urllib.parse import unquote

_PARAMETER = re.compile(r"\{(?P<rest>\*{1,2})?(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<optional>\?)?\}")
_RESERVED = ("admin", "runtime")


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The route of one function, below the route prefix of host.json."""

    template: str
    """Without slashes at its ends."""
    methods: frozenset[str]
    """In capitals; empty for all."""
    pattern: re.Pattern[str]
    """Matches the encoded path below the prefix, with its slashes as they are in the template."""

    @classmethod
    def parse(cls, template: str, methods: Sequence[str]) -> Self:
        """Read a route.

        Raises:
            ValueError: the host refuses the route, or it has a form that the local host does not support.

        """
        plain = template.strip("/")
        if plain.lower().startswith(_RESERVED):
            raise ValueError(f"route {template!r} begins with admin or runtime, which the host reserves")
        return cls(template=plain, methods=frozenset(map(str.upper, methods)), pattern=_pattern(plain))

    def match(self, method: str, path: str) -> dict[str, str] | None:
        """Return the parameters in a path (encoded, below the prefix, without outer slashes); None if none fits."""
        if self.methods and method.upper() not in self.methods:
            return None
        found = self.pattern.fullmatch(path)
        if found is None:
            return None
        return {name: _decoded(value) for name, value in found.groupdict().items() if value}

    def conflicts(self, other: Self) -> bool:
        """Return whether the host refuses one of two routes: they are the same, and have a method in common."""
        is_same = self.template.lower() == other.template.lower()
        return is_same and (not self.methods or not other.methods or bool(self.methods & other.methods))


def _pattern(template: str) -> re.Pattern[str]:
    segments = template.split("/") if template else []
    text = ""
    for at, segment in enumerate(segments):
        slash = "/" if at else ""
        if not segment:
            raise ValueError(f"route {template!r} has an empty segment")
        if "{" not in segment and "}" not in segment:
            text += slash + re.escape(segment)
            continue
        parameter = _PARAMETER.fullmatch(segment)
        if parameter is None:
            raise ValueError(f"route {template!r}: the local host cannot read {segment!r}; use {{name}} or {{*name}}")
        name, is_last = parameter["name"], at == len(segments) - 1
        if (parameter["rest"] or parameter["optional"]) and not is_last:
            raise ValueError(f"route {template!r}: {segment} must be at the end")
        if f"(?P<{name}>" in text:
            raise ValueError(f"route {template!r}: the parameter {name!r} is there twice")
        if parameter["rest"]:
            text += f"(?:{slash}(?P<{name}>.*))?"
        elif parameter["optional"]:
            text += f"(?:{slash}(?P<{name}>[^/]+))?"
        else:
            text += f"{slash}(?P<{name}>[^/]+)"
    return re.compile(text, re.IGNORECASE | re.DOTALL)


def _decoded(text: str) -> str:
    """Decode a part of a path, but not `%2F`. A part that is not UTF-8 stays encoded."""
    try:
        return unquote(re.sub("%2f", lambda slash: f"%25{slash[0][1:]}", text, flags=re.IGNORECASE), errors="strict")
    except UnicodeDecodeError:
        return text
