"""Finite instances in the formats of other engines: BTOR2, AIGER, Promela.

`finite` says what is written, whatever the format: named bits, their initial values, steps with
guards and updates, and what must never hold. Each format has a module of its own.
"""
