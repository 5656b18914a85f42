"""Tests of the VFIO layer."""
