"""One fixed-width arithmetic, three carriers: Python int, z3 bit-vector, numpy lanes.

`carrier` says what code written against it may use; `concrete`, `symbolic` and `lanes` are the
three carriers with their memories. Importing this package imports neither z3 nor numpy.
"""

from dmaproof.model.algebra.carrier import MASK64, PAGE, Blocked, Carrier, Cond, Value, Word
from dmaproof.model.algebra.concrete import Image, IntCarrier
from dmaproof.model.algebra.lanes import FlatPages, NumpyCarrier
from dmaproof.model.algebra.symbolic import (
    SymbolicMemory,
    Term,
    Truth,
    Z3Carrier,
    cond_z3,
    word_z3,
)

__all__ = [
    "MASK64", "PAGE", "Blocked", "Carrier", "Cond", "FlatPages", "Image", "IntCarrier",
    "NumpyCarrier", "SymbolicMemory", "Term", "Truth", "Value", "Word", "Z3Carrier", "cond_z3",
    "word_z3",
]
