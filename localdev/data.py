"""The folder `.local/`, in which `make start` keeps its data from one start to the next."""

import os
import shutil
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import msgspec

from localdev.errors import DataDamaged, DataInUse, StartFailed
from localdev.files import replace_file
from localdev.ports import command_of

VERSION = 1
"""The form of the data. Data of another version are kept aside."""

_LOCK = "lock"
_NOT_DATA = (_LOCK, "started.json")


class _Marker(msgspec.Struct, frozen=True):
    version: int
    complete: bool
    """Whether all parts have started once."""


@dataclass(frozen=True, slots=True)
class DataFolder:
    """The folder, which only this process uses, and the places of the parts in it."""

    path: Path

    @property
    def storage(self) -> Path:
        """The folder of Azurite."""
        return self.path / "storage"

    @property
    def cosmos(self) -> Path:
        """The file of the Cosmos DB server."""
        return self._cosmos_folder / "account.sqlite"

    @property
    def secrets(self) -> Path:
        """The file of Key Vault."""
        return self.path / "secrets.json"

    @property
    def seeds(self) -> Path:
        """The file that says what `start` itself has stored."""
        return self.path / "seeds.json"

    @property
    def _cosmos_folder(self) -> Path:
        return self.path / "cosmos"  # with SQLite's journal

    @property
    def _version(self) -> Path:
        return self.path / "version.json"

    @property
    def _data(self) -> tuple[Path, ...]:
        return self._version, self.storage, self._cosmos_folder, self.secrets, self.seeds

    def check(self) -> None:
        """Check that the parts can start with these data.

        Raises:
            DataDamaged: the data are of another version, or a part of them is missing.

        """
        if not any(each.exists() for each in self._data):
            self._mark(complete=False)
            return
        marker = self._marker()
        if not marker.complete:  # the first start was killed before anything could be stored
            self.wipe()
            self._mark(complete=False)
        elif missing := [each.name for each in (self.storage, self.cosmos, self.secrets) if not each.exists()]:
            raise DataDamaged(f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")

    def _marker(self) -> _Marker:
        try:
            marker = msgspec.json.decode(self._version.read_bytes(), type=_Marker)
        except FileNotFoundError:
            raise DataDamaged(f"{self._version.name} is missing, so that their version is not known") from None
        except (msgspec.MsgspecError, UnicodeDecodeError) as why:
            raise DataDamaged(f"{self._version.name} cannot be read: {why}") from None
        if marker.version != VERSION:
            raise DataDamaged(f"they have version {marker.version}, and this program reads version {VERSION}")
        return marker

    def _mark(self, *, complete: bool) -> None:
        replace_file(self._version, msgspec.json.encode(_Marker(VERSION, complete)))

    def complete(self) -> None:
        """Note that all parts have started with these data."""
        self._mark(complete=True)

    def wipe(self) -> list[str]:
        """Remove the data. Returns the names of everything else in the folder, which stays."""
        for each in self._data:
            if each.is_dir():
                shutil.rmtree(each)
            else:
                each.unlink(missing_ok=True)
        return sorted(each.name for each in self.path.iterdir() if each.name not in _NOT_DATA)

    def keep_aside(self, now: datetime) -> Path:
        """Move everything to a new folder beside this one, `.local.<time>`. Returns that folder."""
        aside = self.path.with_name(f"{self.path.name}.{now:%Y%m%dT%H%M%S.%fZ}")
        aside.mkdir(mode=0o700)
        for each in self.path.iterdir():
            if each.name not in _NOT_DATA:
                each.rename(aside / each.name)
        return aside


@contextmanager
def data_folder(path: Path) -> Generator[DataFolder]:
    """Make the folder if it is missing, and keep other users, and processes as long as this one runs, out of it.

    Raises:
        DataInUse: another process has the folder.
        StartFailed: the folder cannot be made or used.

    """
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        path.chmod(0o700)  # somebody else may have made it
        lock = (path / _LOCK).open("ab+")
    except OSError as error:
        raise StartFailed(f"{path} cannot be used as a folder for data: {error.strerror}") from None
    with lock as file:
        try:
            _lock(file)
        except OSError:
            file.seek(0)
            raise DataInUse(f"{path.name}/ is in use by {_process(file.read(20))}: stop that first") from None
        file.truncate(0)
        file.write(str(os.getpid()).encode())
        file.flush()
        yield DataFolder(path)


def _process(pid: bytes) -> str:
    if not pid.isdigit():
        return "another process"
    command = command_of(int(pid))
    return f"pid {int(pid)} ({command})" if command else f"pid {int(pid)}"


if sys.platform == "win32":
    import msvcrt

    def _lock(file: BinaryIO) -> None:
        file.seek(1024)  # bytes that are locked cannot be read
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(file: BinaryIO) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
