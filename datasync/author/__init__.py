"""The use cases of the author of a flow. They know neither click nor HTTP, and are not deployed."""
