"""Saves a `try` for tests: its HTTP exchanges as a cassette, and the answers that were made up."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasync.flow.recording import Recording
from datasync.run.ending import Ending
from datasync.run.prepare import Prepared
from datasync.run.record import facts


def save_cassette(folder: Path, stem: str, made: Prepared, ending: Ending, recording: Recording) -> Path:
    """Write the cassette where pytest-recording looks for that of a test `test_try_{tenant}` in `test_{stem}.py`.

    Raises:
        OSError: it cannot be written.

    """
    name = re.sub(r"\W+", "_", made.run.tenant.id, flags=re.ASCII)
    file = folder / "cassettes" / f"test_{stem}" / f"test_try_{name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(recording.cassette(facts(made, ending)).encode())
    return file


def save_answers(file: Path, added: Sequence[Mapping[str, Any]]) -> None:
    """Add answers to the end of a file with answers, which has no mistake or does not exist.

    Raises:
        OSError: it cannot be written.

    """
    present: list[Any] = json.loads(file.read_text(encoding="utf-8-sig")) if file.exists() else []
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps([*present, *added], ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
