"""The flows: one module for each.

To add one, drop a file in this folder:

    from azure.keyvault.secrets.aio import SecretClient
    from datasync import FlowRun
    from flows.registry import flow

    @flow("my-source→my-target")
    async def my_source_to_my_target(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
        ...

It is found by itself, and runs for the tenants whose documents name it. docs/writing-a-flow.md has the rest.
"""
