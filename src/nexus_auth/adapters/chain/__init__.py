"""A source of keys and neurons straight from the nodes of the chain."""
