"""Checks the stored tenant documents, and looks in the vault for the secrets that their flows declare."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from msgspec.structs import replace

from datasync.cli.meaning import Meaning
from datasync.cli.validate import Finding, count
from datasync.errors import DataSyncError, SecretNotFound, TenantInvalid
from datasync.flow.registry import FlowRegistry
from datasync.flow.secrets import Vault, declared_secret
from datasync.model.display import shown
from datasync.model.tenant import Level, Problem, Tenant, is_tenant_document
from datasync.services import Services
from datasync.tick.check import Spellings, entry_problems, tenant_problems
from datasync.tick.warn import entry_warnings, field_warnings

READS_AT_ONCE = 4
"""Reads of the vault at once. If each answer takes 20 ms or more, they are at most 200 per second.

A vault allows 4,000 in 10 seconds. The rest is for the running app:
https://learn.microsoft.com/azure/key-vault/general/service-limits
"""


class TenantsChecked(msgspec.Struct, frozen=True, rename="camel"):
    """The result of `check --tenants`, in numbers and with each finding."""

    tenants: int
    declared_secrets: int
    missing: int
    """Declared secrets that are not in the vault. A shared secret counts for each entry."""
    problems: int
    warnings: int
    findings: list[Finding]


class TenantsReport:
    """Finds the problems and warnings of stored documents, and the secrets that enabled entries lack."""

    def __init__(self, services: Services, registry: FlowRegistry, now: datetime) -> None:
        self._services = services
        self._registry = registry
        self._now = now
        self._spellings = Spellings()
        self._tenants = 0
        self._declared = 0
        self.missing = 0
        """Number of declared secrets that are not in the vault. A shared secret counts for each entry."""
        self.problems = 0
        self._warnings = 0
        self._findings: list[Finding] = []

    async def findings(self) -> AsyncIterator[Finding]:
        """Yield each broken flow file, each problem, each warning, and each missing secret.

        Disabled entries are not checked. An entry with a problem does not run, so its secrets are not read.

        Raises:
            SettingsInvalid: no vault is configured, and an entry declares a secret.
            ServiceUnavailable: Cosmos DB or the vault refused or could not be reached.

        """
        for module in self._registry.broken:
            self.problems += 1
            yield self._found(
                "error", module, f"cannot be loaded; its flows cannot run: {self._registry.cause(module)}"
            )
        async for page in self._services.tenants.all():
            examined = [
                _examine(document, self._spellings, self._registry, self._now)
                for document in page
                if is_tenant_document(document)
            ]
            declared = [each for _, found in examined for each in found]
            self._tenants += len(examined)
            self._declared += len(declared)
            for problem in (each for found, _ in examined for each in found):
                self.problems += problem.level == "error"
                self._warnings += problem.level == "warning"
                yield self._found(problem.level, problem.place, shown(problem.why, 2000))
            missing = await _missing(self._services.vault, {name for _, name in declared})
            for subject, name in declared:
                if name in missing:
                    self.missing += 1
                    yield self._found("error", subject, str(missing[name]))

    def _found(self, level: Level, place: str, why: str) -> Finding:
        self._findings.append(Finding(level, None, place, why))
        return self._findings[-1]

    def result(self) -> TenantsChecked:
        """Return everything that was found."""
        return TenantsChecked(
            tenants=self._tenants,
            declared_secrets=self._declared,
            missing=self.missing,
            problems=self.problems,
            warnings=self._warnings,
            findings=self._findings,
        )

    def summary(self) -> str:
        """Return the numbers of tenants, declared secrets, missing secrets, problems and warnings."""
        return (
            f"{count(self._tenants, 'tenant')}, {count(self._declared, 'declared secret')}, {self.missing} missing, "
            f"{count(self.problems, 'problem')}{f', {count(self._warnings, "warning")}' if self._warnings else ''}"
        )


async def with_missing(meanings: Sequence[Meaning], vault: Vault) -> list[Meaning]:
    """Return the meanings of entries with the declared secrets that the vault does not have.

    Raises:
        SettingsInvalid: no vault is configured, and an entry declares a secret.
        ServiceUnavailable: the vault refused or could not be reached.

    """
    missing = await _missing(vault, {name for each in meanings for name in each.secrets})
    return [replace(each, missing=tuple(name for name in each.secrets if name in missing)) for each in meanings]


def _examine(
    document: Mapping[str, Any], spellings: Spellings, registry: FlowRegistry, now: datetime
) -> tuple[list[Problem], list[tuple[str, str]]]:
    """Return the problems and warnings of a document, and the secrets of its enabled entries.

    A secret is a pair: `tenant/flow`, and the full name.
    """
    problems = [*field_warnings(document)]
    try:
        tenant = Tenant.from_document(document)
    except TenantInvalid as error:
        return [Problem(tenant_id=error.tenant_id, path=error.path, why=error.why), *problems], []
    problems += [*spellings.problems(tenant.id), *tenant_problems(tenant)]
    declared: list[tuple[str, str]] = []
    for entry in tenant.flows:
        if not entry.enabled:
            continue
        problems += entry_warnings(tenant, entry, registry, now, now)
        if found := [*entry_problems(tenant, entry, registry, now)]:
            problems += found
            continue
        names = dict.fromkeys(registry.resolve(entry.name).secrets)
        declared += [(f"{shown(tenant.id)}/{shown(entry.name)}", declared_secret(tenant.id, name)) for name in names]
    return [*dict.fromkeys(problems)], declared


async def _missing(vault: Vault, names: Collection[str]) -> dict[str, SecretNotFound]:
    """Read secrets, and return an error for each that the vault does not have."""
    missing: dict[str, SecretNotFound] = {}
    limit = asyncio.Semaphore(READS_AT_ONCE)

    async def read(name: str) -> None:
        async with limit:
            try:
                await vault.get(name)
            except SecretNotFound as error:
                missing[name] = error

    try:
        async with asyncio.TaskGroup() as reads:
            for name in names:
                reads.create_task(read(name))
    except* DataSyncError as errors:
        raise errors.exceptions[0] from None
    return missing
