"""Wire names and formats of headers, and which proxy sends which."""
