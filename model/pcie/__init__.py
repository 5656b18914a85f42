"""PCIe: topology, configuration space, ACS, routing, leak channels, groups."""
