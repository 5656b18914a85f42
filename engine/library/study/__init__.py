"""Known answers about the designs of the study, one file a design; see `engine.known`."""
