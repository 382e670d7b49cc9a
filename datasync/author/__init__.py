"""Use cases of the author of a flow, who runs it in a process of their own."""
