"""Private keys and certificates on disk, safe against crashes."""
