"""Theorems over all topologies up to a size: what is asked, and how it is decided."""
