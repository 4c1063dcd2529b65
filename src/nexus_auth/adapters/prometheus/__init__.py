"""Tells Prometheus what the service counted."""
