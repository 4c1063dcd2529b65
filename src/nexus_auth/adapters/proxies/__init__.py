"""Configuration generators, one template per reverse proxy."""
