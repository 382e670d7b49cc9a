"""The tenants and secrets that `make start` stores: those of the demo, and those of a folder of the user."""

import json
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from localdev import seeds
from localdev.azurite import Storage
from localdev.cosmos import Database
from localdev.data import DataFolder, data_folder
from localdev.demo_apis import DemoApis
from localdev.errors import DataDamaged, InputInvalid
from localdev.keyvault import KeyVault
from localdev.seeding import Seed, follow_demo_apis, read_seed, store_demo, store_seed
from localdev.stack import Stack
from tests.documents import document, entry
from tests.world import World

NOW = datetime(2026, 1, 31, 9, tzinfo=UTC)
URL = "http://127.0.0.1:8080"


@pytest.fixture
def data(tmp_path: Path) -> Generator[DataFolder]:
    """Return an empty folder for data."""
    with data_folder(tmp_path / ".local") as made:
        yield made


@pytest.fixture
def running(world: World, storage: Storage, database: Database, vault: KeyVault) -> Generator[Stack]:
    """Return the services of this test as those of `start`, with demo APIs at the usual address."""

    def clear() -> None:
        for name in vault.values():
            vault.delete_secret(name)

    clear()  # the vault is that of all tests
    yield Stack(storage, database, vault, DemoApis(NOW, url=URL), world.environ)
    clear()


async def stored(world: World) -> dict[str, str]:
    """Return the names of the stored tenants by id."""
    return {item["id"]: item["name"] async for item in world.tenants.query_items("SELECT c.id, c.name FROM c")}


def write_seed(folder: Path, secrets: str, *documents: dict[str, Any]) -> Seed:
    (folder / "tenants").mkdir(parents=True, exist_ok=True)
    for each in documents:
        (folder / "tenants" / f"{each['id']}.json").write_text(json.dumps(each))
    (folder / "secrets.env").write_text(secrets)
    return read_seed(folder, pytest.fail)


class TestDemo:
    """The demo's tenants and secrets."""

    async def test_they_are_stored_once(self, running: Stack, world: World, data: DataFolder) -> None:
        """What the user changes or deletes afterwards stays so."""
        await store_demo(running, data, NOW)
        assert set(await stored(world)) == {each["id"] for each in seeds.tenants(NOW, URL)}
        assert running.vault.values() == seeds.secrets(URL)

        await world.tenants.delete_item("acme-cabinets", "acme-cabinets")
        await world.put(document("cobalt-floors", name="Mine"))
        running.vault.delete_secret("tenants--acme-cabinets--homedepot--api-token")
        await store_demo(running, data, NOW)

        left = await stored(world)
        assert "acme-cabinets" not in left
        assert left["cobalt-floors"] == "Mine"
        assert not running.vault.has_secret("tenants--acme-cabinets--homedepot--api-token")

    async def test_what_exists_is_not_replaced(self, running: Stack, world: World, data: DataFolder) -> None:
        """A user can have stored a tenant with the same id before, in a start without the demo."""
        await world.put(document("cobalt-floors", name="Mine"))
        running.vault.set_secret("tenants--cobalt-floors--homedepot--api-token", "mine")

        await store_demo(running, data, NOW)

        assert (await stored(world))["cobalt-floors"] == "Mine"
        assert running.vault.values()["tenants--cobalt-floors--homedepot--api-token"] == "mine"

    async def test_the_demo_apis_are_found_on_another_port(
        self, running: Stack, world: World, data: DataFolder
    ) -> None:
        """Tenants and secrets of an earlier start get the new address. Other addresses stay."""
        other = "http://127.0.0.1:80801/x"
        await follow_demo_apis(running, data)
        await store_demo(running, data, NOW)
        await world.put(document("mine", entry(settings={"list": [f"{URL}/mine", other]})))
        running.vault.set_secret("tenants--mine--api--base", other)

        running.demo.url = "http://127.0.0.1:9000"
        await follow_demo_apis(running, data)

        assert running.vault.values() == {
            **seeds.secrets("http://127.0.0.1:9000"),
            "tenants--mine--api--base": other,
        }
        assert (await world.document("acme-cabinets"))["flows"][0]["settings"]["baseUrl"] == "http://127.0.0.1:9000"
        assert (await world.document("mine"))["flows"][0]["settings"]["list"] == ["http://127.0.0.1:9000/mine", other]

    async def test_a_damaged_note_is_an_error(self, running: Stack, data: DataFolder) -> None:
        """Otherwise, deleted tenants would come back."""
        data.seeds.write_text('{"has_demo": ')
        with pytest.raises(DataDamaged, match="seeds.json cannot be read: Input data was truncated"):
            await store_demo(running, data, NOW)


class TestFolder:
    """A folder of the user."""

    async def test_only_changes_of_the_folder_are_stored(
        self, running: Stack, world: World, data: DataFolder, tmp_path: Path
    ) -> None:
        """A stored document or secret that was changed or deleted stays so, until the seed changes."""
        await world.put(document("acme", name="Stored before"))
        both = document("acme", name="Seed"), document("bolt", name="Seed")
        first = write_seed(tmp_path, "shared--a=1\nshared--b=1\n", *both)
        assert await store_seed(running, data, first) == (2, 2)
        assert await stored(world) == {"acme": "Seed", "bolt": "Seed"}

        await world.put(document("acme", name="Edited"))
        await world.tenants.delete_item("bolt", "bolt")
        running.vault.set_secret("shared--a", "edited")
        assert await store_seed(running, data, first) == (0, 0)
        assert await stored(world) == {"acme": "Edited"}
        assert running.vault.values() == {"shared--a": "edited", "shared--b": "1"}

        second = write_seed(tmp_path, "shared--a=2\nshared--b=1\n", document("acme", name="New"), both[1])
        assert await store_seed(running, data, second) == (1, 1)
        assert await stored(world) == {"acme": "New"}
        assert running.vault.values() == {"shared--a": "2", "shared--b": "1"}

    def test_secrets_are_read_from_lines(self, tmp_path: Path) -> None:
        """Empty lines, comments, and quotes around a value do not count."""
        lines = '\ufeff# mine\n\nshared--A = a=b#c \nshared--b="two words"\nshared--c=\'"\n'
        assert write_seed(tmp_path, lines).secrets == {
            "shared--a": "a=b#c",
            "shared--b": "two words",
            "shared--c": "'\"",
        }

    @pytest.mark.parametrize(
        ("lines", "error"),
        [
            (b"shared--a=1\nS3cret", "line 2: expected NAME=VALUE"),
            (b"\nshared_a=S3cret", "line 2: the name of a secret has up to 127 letters, digits and '-'"),
            (b"export shared--a=S3cret", "line 1: the name of a secret has up to 127 letters"),
            (b"shared--a=", "line 1: shared--a has no value"),
            (b"shared--a=S3cret\nShared--A=S3cret", "line 2: Shared--A is there twice"),
            (b"shared--a=\xff", "secrets.env is not UTF-8 at byte 10"),
        ],
    )
    def test_a_line_that_is_not_a_secret_is_named(self, tmp_path: Path, lines: bytes, error: str) -> None:
        """By its number. No value is shown."""
        (tmp_path / "secrets.env").write_bytes(lines)
        with pytest.raises(InputInvalid) as found:
            read_seed(tmp_path, pytest.fail)
        assert error in str(found.value)
        assert "S3cret" not in str(found.value)

    def test_documents_are_validated(self, tmp_path: Path) -> None:
        """As `localdev tenant` does it, and over all files. Nothing is stored if there is a problem."""
        said: list[str] = []
        (tmp_path / "tenants").mkdir()
        for name in ("a.json", "b.json"):
            (tmp_path / "tenants" / name).write_text(json.dumps(document("acme", entry("wether"))))
        with pytest.raises(InputInvalid, match="nothing is stored. Correct the file first"):
            read_seed(tmp_path, said.append)
        assert "no flow is named 'wether'; did you mean 'weather'?" in said[0]
        assert any("are documents of the same tenant: merge them" in line for line in said)

    def test_a_folder_without_seeds_is_an_error(self, tmp_path: Path) -> None:
        """The error says what is expected."""
        with pytest.raises(InputInvalid, match=r"has neither tenants/\*.json nor secrets.env"):
            read_seed(tmp_path / "missing", pytest.fail)
