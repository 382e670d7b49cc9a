"""The command line of the local tooling."""
