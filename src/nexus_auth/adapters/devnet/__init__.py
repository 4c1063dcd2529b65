"""A development Pylon: everything can be tried without a chain. Never for production.

It answers as the Pylon service 2.0 and later does, and keeps in an SQLite file what the chain
would hold. Nothing is checked on any chain: every holder of a token may publish a key.
"""
