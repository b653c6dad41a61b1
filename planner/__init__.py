"""Decides how many neurons of every FFN layer live on the GPU: bytes in, solved list out. Never imports torch."""

__version__ = "0.1.0"
