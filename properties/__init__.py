"""What isolation means: one named property each."""
