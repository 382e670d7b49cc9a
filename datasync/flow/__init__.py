"""The parts that a flow uses: registration, the run, secrets, HTTP, logging."""
