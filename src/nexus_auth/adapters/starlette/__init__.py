"""The HTTP edge: the auth app, the admin app, ASGI middleware and header formats."""
