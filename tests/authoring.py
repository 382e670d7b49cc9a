"""A folder with flow files, as their author has it, and the API that the flows call."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from aiohttp import web

from datasync import FlowRegistry
from datasync.cli.validate import load


class Desk:
    """A folder with a package of flow files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.package = f"flows_{uuid4().hex}"
        folder = root / self.package
        folder.mkdir()
        (folder / "__init__.py").touch()
        (folder / "registry.py").write_text("from datasync import FlowRegistry\n\nregistry = FlowRegistry()\n")

    def write(self, body: str, options: str = "", parameters: str = "tenant_id, kv, run") -> FlowRegistry:
        """Write the flow `feed`, whose function has this body, and load it."""
        lines = [
            "import asyncio, time",
            "from datetime import timedelta",
            "from datasync import IDEMPOTENT, READ, Continue, GiveUp, RetryLater",
            f"from {self.package}.registry import registry",
            "",
            f"@registry.flow('feed'{options})",
            f"async def feed({parameters}):",
            *(f"    {line}" for line in body.strip().splitlines()),
        ]
        (self.root / self.package / "feed.py").write_text("\n".join(lines) + "\n")
        return load(self.package)

    @property
    def answers(self) -> Path:
        """The file with the answers for the flow."""
        return self.root / "tests" / "flows" / "feed.answers.json"

    @contextmanager
    def importable(self) -> Iterator[None]:
        """Let Python find the package."""
        sys.path.insert(0, str(self.root))
        try:
            yield
        finally:
            sys.path.remove(str(self.root))
            for name in [name for name in sys.modules if name.partition(".")[0] == self.package]:
                del sys.modules[name]


class Target:
    """An API that remembers the requests, and answers each with its own JSON."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, Any]] = []
        """Method, path and JSON of each."""

    async def answer(self, request: web.Request) -> web.Response:
        """Answer a request."""
        body = await request.json() if request.can_read_body else None
        self.requests.append((request.method, request.path, body))
        return web.json_response({"asked": body, "items": [1, 2, 3]})
