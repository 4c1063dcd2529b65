"""One folder per outside thing; each implements a port or drives the domain."""
