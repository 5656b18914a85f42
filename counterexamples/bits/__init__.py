"""Counterexamples made concrete: table bytes, registers, descriptors and requests of VT-d."""
