"""Pylon over HTTP: certificates read and issued, and a development Pylon to try them with."""
