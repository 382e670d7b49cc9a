"""The one registry of the app: `@flow("name")` in a module of this package puts a flow in it."""

from datasync import FlowRegistry

registry = FlowRegistry()
flow = registry.flow
