"""The libraries that the entry does not import, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

SETTINGS = {"AzureWebJobsStorage": "UseDevelopmentStorage=true", "COSMOS_ENDPOINT": "https://a.documents.azure.com"}
BLOBS = "import sys, function_app; function_app.shared_services(); print('azure.storage.blob' in sys.modules)"
LOOK = (
    "import sys, function_app; spans = type(function_app.shared_services().spans); "
    "print(spans.__name__, any(name.partition('.')[0] == 'opentelemetry' for name in sys.modules))"
)


@pytest.mark.parametrize(("enabled", "seen"), [("false", "Spans False"), ("true", "OpenTelemetrySpans True")])
def test_opentelemetry_is_imported_only_where_it_is_on(enabled: str, seen: str) -> None:
    """Although it is installed: a cold start does not pay for it."""
    environ = {**os.environ, **SETTINGS, "PYTHON_ENABLE_OPENTELEMETRY": enabled}
    ended = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", LOOK], cwd=ROOT, env=environ, capture_output=True, text=True, check=True
    )

    assert ended.stdout == f"{seen}\n"


def test_the_library_for_blobs_is_not_imported_at_the_start() -> None:
    """Only an attempt that fails needs it, where failures are recorded."""
    environ = {**os.environ, **SETTINGS, "RECORD_FAILURES": "true"}
    ended = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", BLOBS], cwd=ROOT, env=environ, capture_output=True, text=True, check=True
    )

    assert ended.stdout == "False\n"
