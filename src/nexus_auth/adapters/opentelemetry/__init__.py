"""Tells a collector of traces what was decided."""
