"""VT-d driver programs as ordered micro-steps."""
