"""Settings, container, command line and runner: wiring only, no decisions."""
