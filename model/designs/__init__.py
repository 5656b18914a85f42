"""Built-in designs, one TOML file each."""
