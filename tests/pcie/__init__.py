"""Tests of the PCIe fabric."""
