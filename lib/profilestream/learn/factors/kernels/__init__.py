"""Numpy code of the factors; it imports only the standard library, numpy and pyarrow."""
