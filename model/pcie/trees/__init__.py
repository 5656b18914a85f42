"""Every topology up to a size: shapes, their settings, and the rules read on them."""
