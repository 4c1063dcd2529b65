"""What the service counts and remembers of itself, in every worker, for metrics and status page."""
