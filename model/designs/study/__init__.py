"""The designs of the study: each historical bug beside its fix, and the interfaces after 2018."""
