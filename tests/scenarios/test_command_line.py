"""An operator who knows only `datasync --help` finds the problem, and fixes it."""

import json

import pytest_asyncio

from localdev.keyvault import KeyVault
from tests.scenarios.company import ORDERS, Company, Shop
from tests.scenarios.operator import Operator


@pytest_asyncio.fixture
async def operator(company: Company) -> Operator:
    """Return an operator who has read the help of the program."""
    operator = Operator(company)
    await operator.run("--help")
    return operator


async def is_well(operator: Operator) -> bool:
    """Return whether `status` finds nothing wrong."""
    await operator.run("status")
    return operator.exit_code == 0


async def test_a_provider_that_is_down_for_half_the_fleet(company: Company, shop: Shop, operator: Operator) -> None:
    """Its tenants are one incident. When the provider is back, all dead runs are attempted again at once."""
    await company.add("orders", "acme", "bolt")
    await company.add("stock", "cobalt", "delta")
    await company.tick()
    shop.is_down = True
    await company.hours(1)

    assert "failing      2" in await operator.run("status")
    found = await operator.follow("incidents")
    assert "2 tenants, since 2025-08-23T14:00:00Z: HTTPStatusError: Server error '503 Service Unavailable'" in found
    shop.is_down = False
    again = operator.named("dead retry")
    await operator.run(again)
    assert operator.exit_code == 2, "the number has to be given"
    await operator.run(f"{again} --yes 2")
    await company.work()

    assert await is_well(operator)
    assert [await company.outcomes(tenant) for tenant in ("acme", "bolt")] == [["succeeded"], ["succeeded"]]


async def test_the_expired_token_of_one_tenant(
    company: Company, shop: Shop, vault: KeyVault, operator: Operator
) -> None:
    """The error says that the server refuses a secret, and one command further is the command that sets it."""
    await company.add("orders", "acme", "bolt")
    await company.tick()
    shop.expired.add("token-of-bolt")
    await company.hours(1)

    await operator.run("status")
    assert "1 tenant, since 2025-08-23T14:00:00Z: HTTPStatusError: Client error '401 Unauthorized'" in (
        await operator.follow("incidents")
    )
    again = operator.named("dead retry")
    assert "shop--token" in await operator.follow("show")
    assert "python -m localdev secret set tenants--bolt--shop--token <value>" in (await operator.follow("secrets"))
    vault.set_secret("tenants--bolt--shop--token", "new-token-of-bolt")
    await operator.run(again)
    await operator.run(f"{again} --yes 1")
    await company.work()

    assert await is_well(operator)
    assert await company.outcomes("bolt") == ["succeeded"]
    assert shop.asked[-1][0] == "new-token-of-bolt"


async def test_a_bad_cron(company: Company, operator: Operator) -> None:
    """The problem names the field, the value and the correction. The document is got, edited and put."""
    await company.add("stock", "acme")
    await company.add("stock", "bolt", cron="0 * * * *")
    await company.tick()

    assert "problems     1" in await operator.run("status")
    found = await operator.follow("flows --problems")
    assert "problem of bolt/stock flows[0].cron: cron '0 * * * *': 5 fields found, 6 needed" in found
    await operator.follow("why bolt stock")
    await operator.follow("tenant get bolt")
    document, file = json.loads(operator.answer), company.folder / "bolt.json"
    document["flows"][0]["cron"] = "0 0 * * * *"
    file.write_text(json.dumps(document), encoding="utf-8")
    put = operator.named("tenant put").replace("FILE", "{file}")
    assert "tenant bolt: replaced" in await operator.run(put, file=file)
    await company.hours(2)

    assert await is_well(operator)
    assert await company.outcomes("bolt") == ["succeeded"]


async def test_a_broken_flow_file(company: Company, operator: Operator) -> None:
    """The problem names the file, the line and the error."""
    await company.add("orders", "acme")
    await company.add("stock", "bolt")
    await company.tick()
    company.write_file("orders.py", ORDERS.replace("raise_for_status()", "raise_for_status("))
    company.deploy()
    await company.hours(1)

    assert "problems     1" in await operator.run("status")
    found = await operator.follow("flows --problems")
    assert "flows.orders could not be loaded: SyntaxError: '(' was never closed (orders.py, line 14)" in found
    assert "next: correct the flow file, and deploy the app" in await operator.follow("why acme orders")
    company.write_file("orders.py", ORDERS)
    assert "2 tenants, 1 declared secret, 0 missing, 0 problems" in await operator.follow("check --tenants")
    company.deploy()
    await company.hours(1)

    assert await is_well(operator)
    assert await company.outcomes("acme") == ["succeeded"]


async def test_a_stuck_run(company: Company, operator: Operator) -> None:
    """It is late. The reason is the run that does not end, with its start, its lease, and the command that ends it."""
    await company.add("orders", "acme")
    await company.add("stock", "bolt")
    await company.tick()
    await company.hours(1)
    delivery = await company.start_stuck_run(hours=3)

    assert "late         1" in await operator.run("status")
    assert "late: acme/orders should have succeeded by 2025-08-23T17:00:00Z" in await operator.follow("flows --late")
    why = await operator.follow("why acme orders")
    assert "is going on since 2025-08-23T15:00:00Z, and its lease lasts until 2025-08-23T18:03:00Z" in why
    assert "the time limit of the flow, 0:10:00, has passed" in why
    assert "az functionapp restart" in why
    await company.restart(delivery)
    await company.work()

    assert await is_well(operator)
    state = await company.state("acme", "orders")
    assert (state.lease, state.last_outcome) == (None, "succeeded")


async def test_ticks_that_do_not_come(company: Company, operator: Operator) -> None:
    """`status` states the last tick, and `ticks` the checks to make, on this machine and on Azure."""
    await company.add("stock", "acme")
    await company.tick()
    await company.hours(1)
    company.clock.time += 5 * (company.next_hour - company.now)

    assert "last tick    2025-08-23T14:00:00Z, 5 h ago. The next ones are missing" in await operator.run("status")
    found = await operator.follow("ticks")
    assert "does `make start` run?" in found
    assert "az functionapp show" in found
    assert "ok" in await operator.follow("check")
    company.deploy()
    await company.hours(1)

    assert await is_well(operator)
    assert (await company.state("acme", "stock")).last_success_utc == company.now


async def test_a_flow_that_suddenly_reads_zero(company: Company, shop: Shop, operator: Operator) -> None:
    """The run shows its numbers beside the usual ones, and the commands that read its window again."""
    await company.add("orders", "acme", "bolt")
    await company.tick()
    await company.hours(1)
    for tenant in ("acme", "bolt"):
        await company.know_the_usual(tenant, "orders")
    shop.empty.add("token-of-bolt")
    await company.hours(1)

    assert "unusual      1" in await operator.run("status")
    assert "unusual: bolt/orders orders=0, usually 120" in await operator.follow("flows --unusual")
    await operator.follow("why bolt orders")
    assert "unusual      orders=0, usually 120" in await operator.follow("show")
    enqueue = operator.named("enqueue")
    shop.empty.clear()
    await operator.follow("window set")
    await operator.run(enqueue)
    await company.work()

    assert await is_well(operator)
    assert shop.asked[-1] == ("token-of-bolt", "2025-08-23T14:00:00+00:00"), "the start of the window that was empty"
    asked_for = [each for each in await company.world.records("bolt") if each.get("trigger") == "manual"]
    assert [each["counts"] for each in asked_for] == [{"orders": 120}]
