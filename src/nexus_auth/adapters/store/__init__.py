"""Where snapshots outlive a process: sealed records in a file or in Redis."""
