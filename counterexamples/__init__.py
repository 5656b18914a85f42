"""What a refutation is worth: minimise, make concrete, replay, show, export."""
