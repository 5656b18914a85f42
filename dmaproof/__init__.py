"""dmaproof: proves or refutes that a way of binding PASIDs to devices keeps them isolated."""

__version__ = "0.1.0"
