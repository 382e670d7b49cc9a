"""The folder in which `make start` keeps its data."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from localdev.data import DataFolder, data_folder
from localdev.errors import DataDamaged, DataInUse, StartFailed

NOW = datetime(2026, 1, 31, 9, tzinfo=UTC)


@pytest.fixture
def data(tmp_path: Path) -> DataFolder:
    """Return a folder in which all parts have kept data."""
    with data_folder(tmp_path / ".local") as made:
        made.check()
        fill(made)
        made.complete()
    return made


def fill(data: DataFolder) -> None:
    data.storage.mkdir()
    data.cosmos.parent.mkdir()
    for file in (data.cosmos, data.secrets, data.storage / "queues"):
        file.write_text("kept")


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def test_only_one_process_at_a_time_uses_the_folder(tmp_path: Path) -> None:
    """The error names the process. Only the user can read the folder."""
    with (
        data_folder(tmp_path / ".local") as data,
        pytest.raises(DataInUse, match=rf"^\.local/ is in use by pid {os.getpid()} \(.*python.*\): stop that first$"),
        data_folder(data.path),
    ):
        pytest.fail("two processes have the folder")
    with data_folder(data.path):
        assert data.path.stat().st_mode & 0o777 == 0o700


def test_only_the_user_can_read_a_folder_that_was_there(tmp_path: Path) -> None:
    """It has the secrets of the local Key Vault."""
    (tmp_path / ".local").mkdir(mode=0o755)
    with data_folder(tmp_path / ".local") as data:
        assert data.path.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """For instance, since there is a file of that name."""
    (tmp_path / ".local").touch()
    with (
        pytest.raises(StartFailed, match=r"\.local cannot be used as a folder for data: File exists"),
        data_folder(tmp_path / ".local"),
    ):
        pytest.fail("a file is used as a folder")


def test_complete_data_are_accepted(data: DataFolder) -> None:
    """They stay as they are."""
    before = names(data.path)
    data.check()
    assert names(data.path) == before


def test_the_rest_of_a_first_start_that_was_killed_is_removed(tmp_path: Path) -> None:
    """Before all parts have started, nothing can be stored."""
    with data_folder(tmp_path / ".local") as data:
        data.check()
        fill(data)
        data.check()
        assert names(data.path) == ["lock", "version.json"]


@pytest.mark.parametrize(
    ("marker", "why"),
    [
        ('{"version": 0, "complete": true}', "they have version 0, and this program reads version 1"),
        ('{"version": 2, "complete": true, "more": []}', "they have version 2, and this program reads version 1"),
        ('{"version": 1', "version.json cannot be read: Input data was truncated"),
        ("\0\xff", "version.json cannot be read: "),
        ("[1]", "version.json cannot be read: Expected `object`, got `array`"),
        (None, "version.json is missing, so that their version is not known"),
    ],
)
def test_data_of_another_version_are_not_used(data: DataFolder, marker: str | None, why: str) -> None:
    """The error says which version they have, if that can be read."""
    file = data.path / "version.json"
    file.unlink()
    if marker is not None:
        file.write_text(marker, encoding="latin-1")

    with pytest.raises(DataDamaged, match=f"^{why}"):
        data.check()


def test_a_part_without_data_is_a_damage(data: DataFolder) -> None:
    """A start without that part would look as if the data were empty."""
    data.secrets.unlink()
    with pytest.raises(DataDamaged, match=r"^secrets\.json is missing$"):
        data.check()
    data.cosmos.unlink()
    with pytest.raises(DataDamaged, match=r"^account\.sqlite and secrets\.json are missing$"):
        data.check()


def test_data_that_cannot_be_used_are_kept_aside(data: DataFolder) -> None:
    """Everything is moved, also what another version of the program has written."""
    (data.path / "of-another-version").write_text("kept")
    aside = data.keep_aside(NOW)

    assert aside == data.path.with_name(".local.20260131T090000.000000Z")
    assert names(data.path) == ["lock"]
    assert names(aside) == ["cosmos", "of-another-version", "secrets.json", "storage", "version.json"]
    assert (aside / "storage" / "queues").read_text() == "kept"
    data.check()
    assert json.loads((data.path / "version.json").read_text()) == {"version": 1, "complete": False}


def test_only_own_data_are_wiped(data: DataFolder) -> None:
    """The names of the others are returned."""
    (data.path / "notes.txt").write_text("mine")

    assert data.wipe() == ["notes.txt"]
    assert names(data.path) == ["lock", "notes.txt"]
    data.check()
