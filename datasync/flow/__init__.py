"""The surface of a flow's author: registration, the run, secrets, HTTP, logging."""
