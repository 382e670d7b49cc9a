"""Local tooling: the emulators, demo APIs and host that stand in for Azure on one machine. Never deployed."""
