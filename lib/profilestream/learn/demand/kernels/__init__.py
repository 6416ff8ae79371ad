"""Numpy code of demand; it imports only the standard library, numpy and pyarrow."""
