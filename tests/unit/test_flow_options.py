"""The options of `@flow`, and their effect on the entries of a flow."""

import os
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from azure.keyvault.secrets.aio import SecretClient

from datasync import FlowRegistry
from datasync.errors import FlowInvalid, FlowSettingsInvalid
from datasync.flow.registry import Flow
from datasync.model.tenant import Tenant
from datasync.tick.check import entry_problems
from localdev.hosting import ROOT
from tests.documents import document, entry
from tests.stages import does_nothing

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Rule(msgspec.Struct):
    sku: str


class Rules(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """The rules of a tenant."""

    min_total: float = 0
    rules: list[Rule] = []


class Unreadable(msgspec.Struct):
    client: SecretClient


class Careless(msgspec.Struct):
    total: float = 0

    def __post_init__(self) -> None:
        if self.total < 0:
            raise KeyError("total")


class Undefined(msgspec.Struct):
    other: "NoSuchType"  # type: ignore[name-defined]  # noqa: F821


def registry_with(**options: Any) -> FlowRegistry:
    """Return a registry with a flow named `mapped` that has these options."""
    registry = FlowRegistry()
    registry.flow("mapped", **options)(does_nothing)
    return registry


def declared(**options: Any) -> Flow:
    return registry_with(**options).resolve("mapped")


def problems(tenant_id: str, settings: object, registry: FlowRegistry) -> list[str]:
    """Return the problems of a tenant's entry for the flow."""
    tenant = Tenant.from_document(document(tenant_id, entry("mapped", settings=settings)))
    return [str(problem) for problem in entry_problems(tenant, tenant.flows[0], registry, NOW)]


def test_every_option_has_a_default() -> None:
    """A flow with a name only runs once at a time, in up to 100 parts, and declares nothing."""
    flow = declared()

    assert (flow.overlap, flow.parts, flow.settings, flow.secrets) == ("once", 100, None, ())
    assert (flow.provider, flow.cooldown) == (None, "tenant")


def test_options_are_kept() -> None:
    """The flow has the values of the decorator."""
    secrets = ("mysource--api-token", "shared--geocoder--key", "a--b--c")
    flow = declared(
        overlap="skip", parts=1000, settings=Rules, secrets=secrets, provider="my.source_1-a", cooldown="provider"
    )

    assert (flow.overlap, flow.parts, flow.settings, flow.secrets) == ("skip", 1000, Rules, secrets)
    assert (flow.provider, flow.cooldown) == ("my.source_1-a", "provider")


@pytest.mark.parametrize(
    ("options", "mistake"),
    [
        ({"overlap": "twice"}, "overlap='twice' must be one of 'once', 'skip', 'allow'"),
        ({"overlap": None}, "overlap=None must be one of"),
        ({"parts": 0}, "parts=0 must be a whole number from 1 to 1000"),
        ({"parts": 1001}, "parts=1001 must be"),
        ({"parts": True}, "parts=True must be"),
        ({"parts": "5"}, "parts='5' must be"),
        ({"settings": dict}, r"settings=<class 'dict'> must be a msgspec.Struct type, .*A union or another type"),
        ({"settings": Rule | Rules}, "must be a msgspec.Struct type"),
        ({"settings": Rule("a")}, r"settings=Rule\(sku='a'\) must be a msgspec.Struct type"),
        ({"settings": Unreadable}, "settings=Unreadable has a field that JSON cannot be decoded to.*SecretClient"),
        ({"settings": Undefined}, "settings=Undefined has a field .* name 'NoSuchType' is not defined"),
        ({"secrets": "mysource--api-token"}, "secrets='mysource--api-token' must be a tuple of names"),
        ({"secrets": ("api-token",)}, "secrets: 'api-token' must be the name of a secret within the tenant"),
        ({"secrets": ("my_source--api-token",)}, "secrets: 'my_source--api-token' must be"),
        ({"secrets": ("mysource--",)}, "secrets: 'mysource--' must be"),
        ({"secrets": ("tenants--acme--mysource--api-token",)}, "secrets: 'tenants--acme--mysource--api-token' must be"),
        ({"secrets": (5,)}, "secrets: 5 must be"),
        ({"secrets": ("mysource--" + "x" * 106,)}, "is too long; Key Vault takes names of 127 characters"),
        ({"secrets": ("shared--" + "x" * 120,)}, "is too long; Key Vault takes names of 127 characters"),
        ({"provider": "my/source"}, "provider='my/source' must be a name of up to 64 letters, digits"),
        ({"provider": ""}, "provider='' must be"),
        ({"provider": "x" * 65}, "must be a name of up to 64"),
        ({"cooldown": "fleet"}, "cooldown='fleet' must be one of 'tenant', 'provider'"),
        ({"cooldown": "provider"}, "cooldown='provider' needs a provider: add provider="),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused(options: dict[str, Any], mistake: str) -> None:
    """The error names the flow, the file, the option, the value, and the values that are allowed."""
    with pytest.raises(FlowInvalid, match=rf"flow 'mapped' in .*stages.py: .*{mistake}"):
        declared(**options)


def test_all_wrong_values_are_named_at_once() -> None:
    """The author corrects them in one go."""
    with pytest.raises(FlowInvalid, match="timeout=5 must be .*; parts=0 must be .*; provider='' must be"):
        declared(timeout=5, parts=0, provider="")


def test_the_longest_names_are_accepted() -> None:
    """Key Vault takes 127 characters. The shortest tenant id has one."""
    longest = ("mysource--" + "x" * 105, "shared--" + "x" * 119)

    assert declared(secrets=longest).secrets == longest


def test_settings_are_decoded_to_the_declared_type() -> None:
    """Missing fields have their defaults, also where the entry has no settings."""
    tenant = Tenant.from_document(document("acme", entry("mapped", settings={"minTotal": 5}), entry("other")))

    assert declared(settings=Rules).decode_settings("acme", tenant.flows[0]) == Rules(min_total=5)
    assert declared(settings=Rules).decode_settings("acme", tenant.flows[1]) == Rules()


def test_without_a_declared_type_settings_are_a_dict() -> None:
    """They are the object in the document."""
    tenant = Tenant.from_document(document("acme", entry("mapped", settings={"anything": [1]}), entry("other")))

    assert declared().decode_settings("acme", tenant.flows[0]) == {"anything": [1]}
    assert declared().decode_settings("acme", tenant.flows[1]) == {}


@pytest.mark.parametrize("filler", ["x", "\ud800"])
def test_very_large_settings_of_a_declared_type_are_a_problem(filler: str) -> None:
    """To convert them would stop all other runs. Without a type, they are not converted."""
    rules = [{"sku": f"{n}{filler}"} for n in range(30_000)]
    tenant = Tenant.from_document(document("acme", entry("mapped", settings={"rules": rules})))

    (problem,) = entry_problems(tenant, tenant.flows[0], registry_with(settings=Rules), NOW)
    assert problem.path == "flows[0].settings"
    assert "bytes as JSON; at most 256,000 are converted" in problem.why
    assert declared().decode_settings("acme", tenant.flows[0]) == {"rules": rules}


def test_the_error_for_settings_names_the_field_and_the_remedy() -> None:
    """It is the error of a run whose settings do not fit."""
    tenant = Tenant.from_document(document("acme", entry("other"), entry("mapped", settings={"minTotal": "5"})))

    with pytest.raises(FlowSettingsInvalid) as refused:
        declared(settings=Rules).decode_settings("acme", tenant.flows[1])

    assert str(refused.value) == (
        'acme/mapped flows[1].settings.minTotal: expected a number, got "5" (correct the tenant\'s document)'
    )


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"rules": [{"sku": 5}]}, "acme/mapped flows[0].settings.rules[0].sku: expected a text, got 5"),
        ({"rulez": []}, "acme/mapped flows[0].settings.rulez: unknown setting 'rulez'; did you mean 'rules'?"),
    ],
)
def test_settings_that_do_not_fit_are_a_problem(settings: object, problem: str) -> None:
    """The problem names the field. An entry with a problem is not enqueued."""
    assert problems("acme", settings, registry_with(settings=Rules)) == [problem]


def test_an_error_in_the_code_of_the_settings_type_is_a_problem() -> None:
    """It does not stop the other flows of the tenant."""
    assert problems("acme", {"total": -1}, registry_with(settings=Careless)) == [
        "acme/mapped flows[0].settings: Careless cannot be made from them (KeyError: 'total')"
    ]


@pytest.mark.parametrize(
    ("tenant_id", "problem"),
    [
        ("acme_1", "secret 'tenants--acme_1--mysource--api-token': Key Vault takes names of 1 to 127 letters"),
        ("a" * 100, "Key Vault takes names of 1 to 127 letters"),
        ("acme--1", "the tenant id 'acme--1' cannot be part of a secret's name"),
    ],
)
def test_a_declared_secret_that_the_tenant_cannot_have_is_a_problem(tenant_id: str, problem: str) -> None:
    """The tenant's id cannot be part of the secret's name, or makes it too long."""
    (found,) = problems(tenant_id, None, registry_with(secrets=("mysource--api-token", "mytarget--api-token")))

    assert found.startswith(f"{tenant_id}/mapped flows[0]: secret 'tenants--{tenant_id}--mysource--api-token'")
    assert problem in found


def test_a_shared_secret_does_not_depend_on_the_tenants_id() -> None:
    """Its name has no tenant in it."""
    assert problems("acme_1", None, registry_with(secrets=("shared--geocoder--key",))) == []


class Stricter(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """The rules of a tenant."""

    min_total: int = 0
    rules: list[Rule] = []


def test_the_fingerprint_changes_with_the_declared_settings_and_secrets() -> None:
    """A tick then examines all documents again, since their problems may have changed."""
    declarations: list[dict[str, Any]] = [
        {},
        {"settings": Rules},
        {"settings": Stricter},
        {"secrets": ("mysource--api-token",)},
        {"secrets": ("mytarget--api-token",)},
    ]

    fingerprints = [registry_with(**options).fingerprint for options in declarations]

    assert len(set(fingerprints)) == len(declarations)
    assert fingerprints == [registry_with(**options).fingerprint for options in declarations]


def test_the_fingerprint_is_the_same_in_every_process() -> None:
    """Two instances of one version do not make each other examine all documents."""
    script = (
        "from typing import Literal\nimport msgspec\nfrom datasync import FlowRegistry\n"
        "class Rules(msgspec.Struct):\n"
        "    size: Literal['a', 'b', 'c'] = 'a'\n"
        "    names: frozenset[str] = frozenset({'x', 'y', 'z'})\n"
        "    rules: list[str] = msgspec.field(default_factory=lambda: ['x'])\n"
        "registry = FlowRegistry()\n"
        "@registry.flow('mapped', settings=Rules)\n"
        "async def mapped(tenant_id, kv): ...\n"
        "print(registry.fingerprint)"
    )
    printed = {
        subprocess.run(  # noqa: S603 - our own interpreter
            [sys.executable, "-c", script],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }

    assert len(printed) == 1
