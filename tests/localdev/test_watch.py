"""Changes of the app's files, as `make start` notices them."""

import asyncio
from pathlib import Path

import pytest

from localdev.errors import StartFailed
from localdev.watch import watching


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """Return the folder of an app."""
    for folder in ("dashboard/page", "datasync/model", "flows", "tests"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "function_app.py").write_text("")
    return tmp_path


def save(path: Path, text: str) -> None:
    """Save a file as many editors do: write another one, and rename it."""
    other = path.with_name(f".{path.name}.swp")
    other.write_text(text)
    other.replace(path)


async def test_changes_of_the_app_are_named(app: Path) -> None:
    """Files in its folders, its entry and its settings: edited, new, replaced or deleted, at any depth."""
    async with watching(app) as changes, asyncio.timeout(30):
        for name in ("flows/x.py", "datasync/model/y.py", "dashboard/page/page.js", "host.json", "local.settings.json"):
            (app / name).write_text("1")
            assert await changes.next() == [name]
        save(app / "flows/x.py", "2")
        assert await changes.next() == ["flows/x.py"]
        save(app / "function_app.py", "2")
        assert await changes.next() == ["function_app.py"]
        (app / "flows/x.py").unlink()
        assert await changes.next() == ["flows/x.py"]


async def test_other_files_are_not_changes(app: Path) -> None:
    """Caches, temporary files of editors, and files that are not the app's."""
    async with watching(app) as changes, asyncio.timeout(30):
        (app / "flows/__pycache__").mkdir()
        for name in (
            *("flows/__pycache__/x.cpython-313.pyc", "flows/.x.py.swp", "flows/.#x.py", "flows/#x.py#", "flows/x.py~"),
            *("flows/4913", "flows/x.py.tmp", "tests/test_x.py", "README.md", ".started.json"),
        ):
            (app / name).write_text("1")
        (app / "flows/x.py").write_text("1")
        assert await changes.next() == ["flows/x.py"]


async def test_files_that_change_together_are_one_change(app: Path) -> None:
    """So is a file that changes while nobody waits."""
    async with watching(app) as changes, asyncio.timeout(30):
        for number in range(20):
            (app / f"flows/f{number:02}.py").write_text("1")
        names = set(await changes.next())
        while len(names) < 20:
            names.update(await changes.next())
        assert names == {f"flows/f{number:02}.py" for number in range(20)}


async def test_a_folder_that_cannot_be_watched_is_an_error(tmp_path: Path) -> None:
    """The error names the way without it."""
    async with watching(tmp_path / "missing") as changes, asyncio.timeout(30):
        with pytest.raises(StartFailed, match=r"cannot be noticed .*--no-reload"):
            await changes.next()
