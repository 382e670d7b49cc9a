"""The index of the runs container has exactly the paths that queries use, those of the app and of docs/queries.md."""

import json
import re
from collections.abc import Iterator

from datasync.errors import GiveUp
from datasync.operate.audit import audit
from datasync.operate.flows import flows
from datasync.operate.gates import gates
from datasync.operate.incidents import incidents
from datasync.operate.runs import FAILED, run, runs
from datasync.operate.ticks import ticks
from datasync.operate.why import why
from localdev.provision import RUNS_INDEX
from tests.deliveries import NOW
from tests.docs.pages import blocks
from tests.faults import Wire
from tests.operating import HOUR, Fleet


def used(query: str) -> set[str]:
    """Return the fields in the conditions and the order of a query; `[]` stands for the elements of a list."""
    where = re.sub(r"ARRAY_CONTAINS\(c\.(\w+),", r"c.\1.[]", query.partition("WHERE")[2])
    return {path.replace(".", "/") for path in re.findall(r"\bc\.(\w+(?:\.(?:\w+|\[\]))*)", where)}


def sent(wire: Wire) -> Iterator[str]:
    """Yield the queries on the runs container that were sent."""
    for _, url, body in wire.requests:
        if "/colls/runs/docs" in url and body.startswith("{") and "query" in json.loads(body):
            yield json.loads(body)["query"]


async def test_the_index_has_exactly_the_queried_paths(wire: Wire, fleet: Fleet) -> None:
    """Each further path makes every write dearer. `id` and `_ts` are indexed under every policy."""
    await fleet.add("t", "bad")
    fleet.ends["bad"] = GiveUp("no contract")
    await fleet.tick()
    await fleet.run("bad", "r-1")
    await fleet.add("t", freshness="2h")
    await fleet.tick(HOUR)
    services, registry = fleet.services, fleet.registry
    await flows(services, registry, NOW)
    await incidents(services, registry, NOW, NOW - HOUR)
    await runs(services, registry, tenant_id="t", flow="weather", outcomes=FAILED, since=NOW, most=5)
    await run(services, "r-1", None)
    await why(services, registry, "t", "weather", NOW)
    await ticks(services, NOW, 5)
    await audit(services, tenant_id="t", since=NOW, most=5)
    await gates(services, NOW)

    queries = [*sent(wire)]
    assert not [query for query in queries if re.search(r"GROUP BY|OFFSET|COUNT\(", query)]
    documented = [block.text for block in blocks("sql") if "'Tenant'" not in block.text]
    paths = {path for query in (*queries, *documented) for path in used(query)}
    assert {f"/{path}/?" for path in paths} == {each["path"] for each in RUNS_INDEX["includedPaths"]}
