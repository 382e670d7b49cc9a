"""Imports the libraries of an app before the app itself, so that a process that stands by can start it quickly.

The app's own files are not imported: they may change until the start.
"""

import ast
import importlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def import_libraries(app: Path) -> None:
    """Import the modules that the app's files import, other than the app's own. Those that fail are left out.

    A failure is reported by the import of the app.
    """
    own = {path.stem for path in app.iterdir()}
    pending, found, libraries = ["function_app"], set[str](), set[str]()
    while pending:
        name = pending.pop()
        if name in found:
            continue
        found.add(name)
        for module in _imported(app, name):
            first = module.partition(".")[0]
            if first in own:
                pending.append(first)
            else:
                libraries.add(module)
    for module in sorted(libraries):
        with suppress(Exception):
            importlib.import_module(module)


def _imported(app: Path, name: str) -> Iterator[str]:
    """Yield the names of the modules that an own module or package of the app imports."""
    for file in [app / f"{name}.py", *(app / name).rglob("*.py")]:
        with suppress(OSError, SyntaxError, ValueError):
            for node in ast.walk(ast.parse(file.read_bytes())):
                if isinstance(node, ast.Import):
                    yield from (alias.name for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    yield node.module
