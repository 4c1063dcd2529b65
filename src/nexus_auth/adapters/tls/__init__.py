"""The caller's side of TLS: a server is proven by the key that its hotkey registered."""
