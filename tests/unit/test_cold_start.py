"""The libraries that the entry does not import, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

SETTINGS = {"AzureWebJobsStorage": "UseDevelopmentStorage=true", "COSMOS_ENDPOINT": "https://a.documents.azure.com"}
RECORDINGS = "import sys, function_app; print('datasync.flow.recording' in sys.modules)"
BLOBS = "import sys, function_app; function_app.shared_services(); print('azure.storage.blob' in sys.modules)"
LOOK = (
    "import sys, function_app; spans = type(function_app.shared_services().spans); "
    "print(spans.__name__, any(name.partition('.')[0] == 'opentelemetry' for name in sys.modules))"
)


def printed(code: str, **settings: str) -> str:
    """Run code in a process with app settings."""
    ended = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **SETTINGS, **settings},
        capture_output=True,
        text=True,
        check=True,
    )
    return ended.stdout


@pytest.mark.parametrize(("enabled", "seen"), [("false", "Spans False"), ("true", "OpenTelemetrySpans True")])
def test_opentelemetry_is_imported_only_where_it_is_on(enabled: str, seen: str) -> None:
    """Although it is installed: a cold start does not pay for it."""
    assert printed(LOOK, PYTHON_ENABLE_OPENTELEMETRY=enabled) == f"{seen}\n"


def test_the_library_for_blobs_is_not_imported_at_the_start() -> None:
    """Only an attempt that fails needs it, where failures are recorded."""
    assert printed(BLOBS, RECORD_FAILURES="true") == "False\n"


def test_recordings_cost_nothing_at_the_start_where_they_are_off() -> None:
    """Their patterns take some milliseconds to compile."""
    assert printed(RECORDINGS, RECORD_FAILURES="false") == "False\n"
