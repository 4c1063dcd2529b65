"""Having a key pair made, and everything that keeps it from getting lost."""
