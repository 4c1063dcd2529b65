"""The project's tasks; `make` and CI call these."""
