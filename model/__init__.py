"""What the hardware and the kernel do: logic, PCIe fabric, VT-d tables, VFIO semantics, designs."""
