"""What is particular to the server that we run under."""
