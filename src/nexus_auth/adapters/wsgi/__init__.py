"""The check inside a WSGI application (PEP 3333), by the same gate as everywhere."""
