"""VT-d: the translation engine, bit for bit."""
