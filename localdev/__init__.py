"""Local tooling, never deployed: emulators, demo APIs and a Functions host that replace Azure on one machine."""
