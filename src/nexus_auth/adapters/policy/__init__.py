"""Access policies: from a TOML file or from settings, and which are in force."""
