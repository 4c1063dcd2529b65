"""What `nexus-auth doctor` and `nexus-auth status` look at."""
