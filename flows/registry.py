"""The flow registry of the app. `@flow("name")` in a module of this package registers a flow."""

from datasync import FlowRegistry

registry = FlowRegistry()
flow = registry.flow
