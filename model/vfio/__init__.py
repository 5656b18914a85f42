"""VFIO: containers, groups, devices and the bind interfaces."""
