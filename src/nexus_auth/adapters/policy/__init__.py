"""Access policies written in a TOML file."""
