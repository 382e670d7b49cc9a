"""The flows, one module each.

To add a flow, create a file in this folder:

    from azure.keyvault.secrets.aio import SecretClient
    from datasync import FlowRun
    from flows.registry import flow

    @flow("my-source→my-target")
    async def my_source_to_my_target(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
        ...

The app finds the file, and runs the flow for the tenants whose documents name it. See docs/writing-a-flow.md.
"""
