"""Rows of the study, one TOML file a family of rows."""
