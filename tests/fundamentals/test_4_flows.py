"""A flow is a coroutine function in a file of its own. A decorator gives it a public name."""

from datetime import timedelta

import pytest
from azure.keyvault.secrets.aio import SecretClient

from datasync import FlowRegistry, FlowRun
from datasync.errors import FlowInvalid, FlowUnknown


async def sync(tenant_id: str, kv: SecretClient) -> None:
    """Do nothing."""


async def sync_with_run(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
    """Do nothing."""


def test_a_flow_is_found_by_its_public_name() -> None:
    """Tenant documents refer to the flow by this name."""
    registry = FlowRegistry()
    registry.flow("my-source→my-target")(sync)

    assert registry.resolve("my-source→my-target").function is sync


def test_a_decorated_function_stays_the_function_it_was() -> None:
    """The decorator returns the function unchanged, so a test can call it directly."""
    assert FlowRegistry().flow("weather")(sync) is sync


def test_the_third_parameter_is_optional() -> None:
    """A flow takes `(tenant_id, kv)`, and `run` if it needs more."""
    registry = FlowRegistry()
    registry.flow("short")(sync)
    registry.flow("long")(sync_with_run)

    assert (registry.resolve("short").takes_run, registry.resolve("long").takes_run) == (False, True)


def test_an_alias_keeps_old_documents_working() -> None:
    """After a flow is renamed, documents with the old name still find it."""
    registry = FlowRegistry()
    registry.flow("builder-prime-sync", aliases=("bp-sync",))(sync)

    assert registry.resolve("bp-sync") is registry.resolve("builder-prime-sync")
    assert [flow.name for flow in registry] == ["builder-prime-sync"]


def test_a_name_can_be_used_once() -> None:
    """A second flow with the same name is rejected. The error names both files, and nothing is registered."""
    registry = FlowRegistry()
    registry.flow("weather")(sync)

    with pytest.raises(FlowInvalid, match=r"'weather' in .*test_4_flows.py is already .* by .*test_4_flows.py:\d+"):
        registry.flow("forecast", aliases=("weather",))(sync_with_run)

    assert [flow.name for flow in registry] == ["weather"]


def test_the_error_for_an_unknown_name_lists_the_known_ones() -> None:
    """The list of known flows makes a spelling mistake easy to find."""
    registry = FlowRegistry()
    registry.flow("weather")(sync)

    with pytest.raises(FlowUnknown, match=r"'wether'; did you mean 'weather'\? Known flows: 'weather'"):
        registry.resolve("wether")


@pytest.mark.parametrize("name", ["", " weather", "a/b", "a\\b", "what?", "no#1", "two\nlines", "x" * 201])
def test_a_name_must_be_valid_in_an_id(name: str) -> None:
    """The name becomes part of a Cosmos DB id, in which some characters are not allowed."""
    with pytest.raises(FlowInvalid, match="flow .* in .*test_4_flows.py: a name"):
        FlowRegistry().flow(name)(sync)


def test_a_flow_is_async() -> None:
    """A plain function is rejected, since a blocking call would stop all other flows."""

    def blocking(tenant_id: str, kv: SecretClient) -> None:
        """Do nothing."""

    with pytest.raises(FlowInvalid, match="blocking must be `async def`"):
        FlowRegistry().flow("weather")(blocking)  # type: ignore[type-var]


def test_a_flow_has_the_expected_signature() -> None:
    """Any other signature is rejected. The error shows the expected one."""

    async def alone(tenant_id: str) -> None: ...
    async def greedy(tenant_id: str, kv: SecretClient, run: FlowRun, more: int) -> None: ...
    async def optional(tenant_id: str, kv: SecretClient, run: FlowRun | None = None) -> None: ...
    async def keyword(tenant_id: str, kv: SecretClient, *, run: FlowRun) -> None: ...

    for function in (alone, greedy, optional, keyword):
        with pytest.raises(FlowInvalid, match=rf"the signature is {function.__name__}\(.*; expected \(tenant_id"):
            FlowRegistry().flow("weather")(function)


def test_an_attempt_has_a_time_limit() -> None:
    """`timeout` limits one attempt. It is above zero, and ten minutes by default."""
    registry = FlowRegistry()
    registry.flow("quick", timeout=timedelta(seconds=5))(sync)
    registry.flow("usual")(sync)

    assert registry.resolve("quick").timeout == timedelta(seconds=5)
    assert registry.resolve("usual").timeout == timedelta(minutes=10)
    for wrong in (timedelta(), 5):
        with pytest.raises(FlowInvalid, match="flow 'never' in .* must be a timedelta above zero"):
            registry.flow("never", timeout=wrong)(sync)  # type: ignore[arg-type]
