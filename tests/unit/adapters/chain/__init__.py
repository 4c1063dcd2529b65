"""The chain as a source of keys."""
