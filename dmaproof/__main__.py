"""``python -m dmaproof``."""

from dmaproof.cli import main

main()
