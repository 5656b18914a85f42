"""One module per command of the command line; each is imported when its command runs."""
