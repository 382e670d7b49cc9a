"""`python -m datasync new`: the files of a new flow. tests/docs lints and runs such files."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from datasync import FlowRegistry
from datasync.author.new import new_flow
from datasync.cli.main import cli
from datasync.errors import ActionInvalid, ActionRefused
from datasync.model.tenant import Tenant
from localdev.ports import USUAL
from tests.stages import registry_of

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder like that of the app."""
    (tmp_path / "flows").mkdir()
    (tmp_path / "tests" / "flows").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "module", "systems"),
    [
        ("a→b", "a_to_b", ["a", "b"]),
        ("home-depot -> Builder Prime", "home_depot_to_builder_prime", ["homedepot", "builderprime"]),
        ("Bäder→Größe", "baeder_to_groesse", ["baeder", "groesse"]),
        ("Café→日本 CRM", "cafe_to_crm", ["cafe", "crm"]),
        ("a→b→c", "a_to_b_to_c", ["a", "c"]),
        ("crm→CRM", "crm_to_crm", ["crm-source", "crm-target"]),
        ("3PL→7", "flow_3pl_to_7", ["3pl", "7"]),
        ("ping", "ping", ["ping"]),
        ("class", "class_flow", ["class"]),
        ("registry", "registry_flow", ["registry"]),
        ("email", "email_flow", ["email"]),
        ("run", "run_flow", ["run"]),
    ],
)
def test_a_flow_has_a_file_and_secrets_by_its_name(folder: Path, name: str, module: str, systems: list[str]) -> None:
    """The file has a name that Python can import, and the secrets those of the two systems."""
    made = new_flow(folder, FlowRegistry(), name, "acme", NOW)

    assert (made.flow.as_posix(), made.test.as_posix()) == (f"flows/{module}.py", f"tests/flows/test_{module}.py")
    assert list(made.secrets) == [
        f"tenants--acme--{each}--{key}" for each in systems for key in ("api-base", "api-token")
    ]
    assert f"async def {module}(" in (folder / made.flow).read_text(encoding="utf-8")
    assert f"from flows.{module} import {module}" in (folder / made.test).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "a name is a printable text"),
        (" a", "without blanks around it"),
        ("a\nb", "a name is a printable text"),
        ("a/b", "none of / \\ ? #"),
        ("a→日本", "the system '日本' has no letter from a to z, and no digit"),
        ("→b", "the system '' has no letter from a to z, and no digit"),
        ("a" * 46, "with 46 characters. A name of at most 45 is possible"),
        ("a" * 101, "a new flow has at most 100: choose a shorter one"),
    ],
)
def test_names_that_cannot_be_used_are_explained(folder: Path, name: str, why: str) -> None:
    """Nothing is written."""
    with pytest.raises(ActionInvalid) as refused:
        new_flow(folder, FlowRegistry(), name, "acme", NOW)

    assert why in str(refused.value)
    assert not [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("tenant", "why"), [("", "at least one"), ("a/b", "none of /"), ("a b", "Key Vault"), ("a--b", "'--'")]
)
def test_tenants_that_cannot_be_used_are_explained(folder: Path, tenant: str, why: str) -> None:
    """Its secrets would have no valid names."""
    with pytest.raises(ActionInvalid, match=f"tenant '{tenant}': .*{why}"):
        new_flow(folder, FlowRegistry(), "a→b", tenant, NOW)


def test_a_name_that_is_registered_is_refused(folder: Path) -> None:
    """The message says where."""
    with pytest.raises(ActionRefused, match=r"flow 'weather' is already registered by .*stages.py:\d+"):
        new_flow(folder, registry_of("weather"), "weather", "acme", NOW)


@pytest.mark.parametrize("file", ["flows/a_to_b.py", "tests/flows/test_a_to_b.py"])
def test_no_file_is_overwritten(folder: Path, file: str) -> None:
    """And no other is written."""
    (folder / file).write_text("mine", encoding="utf-8")

    with pytest.raises(ActionRefused, match=f"{file} exists, and is not overwritten"):
        new_flow(folder, FlowRegistry(), "a→b", "acme", NOW)

    assert [path.read_text(encoding="utf-8") for path in folder.rglob("*") if path.is_file()] == ["mine"]


def test_no_file_stays_if_another_cannot_be_written(folder: Path) -> None:
    """So the command can be given again."""
    (folder / "tests" / "flows" / "test_a_to_b.py").symlink_to(folder / "missing" / "test.py")

    with pytest.raises(ActionRefused, match="tests/flows/test_a_to_b.py cannot be written"):
        new_flow(folder, FlowRegistry(), "a→b", "acme", NOW)

    assert not [path for path in folder.rglob("*") if path.is_file()]


def test_another_folder_is_refused(tmp_path: Path) -> None:
    """The message says where to run the command."""
    with pytest.raises(ActionRefused, match="has no folder flows: run this in the folder of the app"):
        new_flow(tmp_path, FlowRegistry(), "a→b", "acme", NOW)


def test_the_tenant_document_is_complete(folder: Path) -> None:
    """The flow is due at once."""
    made = new_flow(folder, FlowRegistry(), "a→b", "globex", NOW)
    tenant = Tenant.from_document(json.loads((folder / made.tenant).read_text(encoding="utf-8")))

    assert made.tenant == Path("globex.json")
    assert (tenant.id, tenant.problems) == ("globex", ())
    assert [(each.name, each.enabled, each.next_run) for each in tenant.flows] == [("a→b", True, NOW)]


def test_a_document_that_exists_is_not_changed(folder: Path) -> None:
    """The second flow of a tenant is written without it, and the author gets the entry."""
    first = new_flow(folder, FlowRegistry(), "a→b", "acme", NOW)
    before = (folder / first.tenant).read_text(encoding="utf-8")

    second = new_flow(folder, FlowRegistry(), "c→d", "acme", NOW)

    assert (first.is_new_tenant, second.is_new_tenant) == (True, False)
    assert (folder / second.tenant).read_text(encoding="utf-8") == before
    assert second.entry["name"] == "c→d"


def test_the_command_prints_the_next_commands(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The secrets by their names, here and in Azure; then the test, a try, and the tick."""
    monkeypatch.chdir(folder)
    ended = CliRunner().invoke(cli, ["new", "my source→b", "--tenant", "globex"], obj=NOW)

    assert ended.exit_code == 0, ended.output
    for line in (
        f"  python -m localdev secret set tenants--globex--mysource--api-base http://127.0.0.1:{USUAL.demo}/mysource",
        "  python -m localdev secret set tenants--globex--b--api-token token-of-b",
        '  az keyvault secret set --vault-name "<vault>" --name tenants--globex--b--api-token --value "<value>"',
        "  python -m pytest tests/flows/test_my_source_to_b.py",
        "  python -m localdev tenant globex.json",
        "  python -m datasync try 'my source→b' --tenant globex --local",
        "  make tick",
    ):
        assert line in ended.output.splitlines()

    again = CliRunner().invoke(cli, ["new", "c→d", "--tenant", "globex"], obj=NOW)
    assert "globex.json" in again.output
    assert '  {"name": "c→d", "enabled": true, "cron": "0 0 * * * *",' in again.output


def test_the_command_reports_a_mistake_in_a_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the exit codes of all commands."""
    monkeypatch.chdir(folder)
    wrong, taken = (CliRunner().invoke(cli, ["new", name], obj=NOW) for name in ("a/b", "weather"))

    assert (wrong.exit_code, taken.exit_code) == (2, 1)
    assert wrong.stderr.startswith("Error: flow 'a/b': a name has at most 200 characters")
    assert taken.stderr.startswith("Error: flow 'weather' is already registered by ")
