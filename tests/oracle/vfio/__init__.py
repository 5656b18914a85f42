"""The legacy VFIO user interface of a real kernel, asked by a program of our own."""
