"""Writes what happened into the log."""
