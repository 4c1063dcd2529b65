"""The demo: every part for real, on this machine alone, and what happens between them."""
