"""`python -m localdev.audit`, with the real pip-audit and npm and a local advisory service."""

import gzip
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, override

import pytest

from localdev.licences import npm_licences, pinned

pytestmark = pytest.mark.usefixtures("node")

OSV_PATH = "/v1/query"


@dataclass
class Advisories:
    """The vulnerable packages that the local service knows, and the packages that it was asked about."""

    url: str = ""
    status: int = 200
    vulnerable: set[str] = field(default_factory=set)
    python: set[str] = field(default_factory=set)
    npm: set[str] = field(default_factory=set)

    def answer(self, path: str, question: Any) -> Any:
        """Answer as OSV or as the npm registry does.

        https://google.github.io/osv.dev/post-v1-query/ and the endpoint `advisories/bulk` of the npm registry.
        """
        if path == OSV_PATH:
            name = question["package"]["name"]
            self.python.add(name)
            known = {"id": "GHSA-1", "summary": "bad", "modified": "2026-01-01T00:00:00Z", "affected": []}
            return {"vulns": [known] if name in self.vulnerable else []}
        self.npm |= set(question)
        advisory = {"id": 1, "url": "https://example.com/GHSA-2", "title": "bad", "severity": "low"}
        return {name: [{**advisory, "vulnerable_versions": "*"}] for name in self.vulnerable & set(question)}


@pytest.fixture
def advisories() -> Iterator[Advisories]:
    """Run the service, with no known vulnerabilities."""
    service = Advisories()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            answer = json.dumps(service.answer(self.path, json.loads(body))).encode()
            self.send_response(service.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        @override
        def log_message(self, format: str, *args: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        service.url = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield service
        server.shutdown()
        thread.join()


def audit(url: str) -> subprocess.CompletedProcess[str]:
    options = [f"--osv-url={url}{OSV_PATH}", f"--npm-registry={url}/"]
    return subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-m", "localdev.audit", *options], capture_output=True, text=True, check=False
    )


def test_every_package_is_looked_up(advisories: Advisories) -> None:
    """Without a known vulnerability, the audit passes."""
    ended = audit(advisories.url)

    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines() == [
        "Python packages: no known vulnerabilities",
        "npm packages of the local services: no known vulnerabilities",
    ]
    assert advisories.python >= set(pinned("constraints.txt"))
    assert advisories.npm >= set(npm_licences())


def test_a_known_vulnerability_fails_the_audit(advisories: Advisories) -> None:
    """The package and the advisory are printed, in each of the two kinds of packages."""
    advisories.vulnerable = {"httpx", "express"}

    ended = audit(advisories.url)

    assert ended.returncode == 1
    python, npm = ended.stdout.splitlines()
    assert python.startswith("VULNERABLE httpx ")
    assert python.endswith(": GHSA-1")
    assert npm == "VULNERABLE express: https://example.com/GHSA-2"


NOT_CHECKED = [
    "Python packages: not checked: the advisory service cannot be reached",
    "npm packages of the local services: not checked: the advisory service cannot be reached",
]


def test_without_a_network_nothing_is_checked() -> None:
    """The output says so, and the audit passes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = f"http://127.0.0.1:{server.getsockname()[1]}"

    ended = audit(closed)

    assert (ended.returncode, ended.stdout.splitlines()) == (0, NOT_CHECKED)


@pytest.mark.parametrize("status", [403, 503])
def test_a_service_that_refuses_counts_as_unreachable(advisories: Advisories, status: int) -> None:
    """Proxies answer 403 instead of cutting the connection."""
    advisories.status = status
    advisories.vulnerable = {"httpx", "express"}

    ended = audit(advisories.url)

    assert (ended.returncode, ended.stdout.splitlines()) == (0, NOT_CHECKED)


def test_a_program_that_fails_is_not_taken_for_an_unreachable_service() -> None:
    """pip-audit cannot use this address."""
    ended = audit("ftp:/nowhere")

    assert ended.returncode == 1
    assert "pip-audit failed" in ended.stderr
