"""A real Linux kernel, booted in QEMU on a generated machine, asked for its IOMMU groups."""
