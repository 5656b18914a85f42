"""What became of each guard of each family, as `counterexamples.study.guards` found it."""
