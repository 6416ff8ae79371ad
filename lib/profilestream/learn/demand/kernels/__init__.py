"""Numpy code of the outcomes; it imports only the standard library, numpy and pyarrow."""
