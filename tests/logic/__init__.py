"""Tests of the logic and of what is written in it."""
