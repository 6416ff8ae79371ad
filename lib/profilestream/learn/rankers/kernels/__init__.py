"""Numpy code of the rankers; it imports only the standard library, numpy and pyarrow."""
