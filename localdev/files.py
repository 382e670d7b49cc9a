"""Writes files so that a reader, or the next process after a kill, sees the old content or the new one."""

import os
from pathlib import Path


def replace_file(file: Path, content: bytes) -> None:
    """Replace the content of a file, which only its owner may read."""
    new = file.with_name(f"{file.name}.new")
    new.touch(mode=0o600)
    new.write_bytes(content)
    os.replace(new, file)  # noqa: PTH105 - the function that is atomic on all systems
