"""A source of keys and neurons, and an issuer of key pairs, over the HTTP API of Pylon."""
