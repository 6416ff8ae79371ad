"""Numpy code of the segments; it imports only the standard library, numpy and pyarrow."""
