"""Numpy code of unusual activity; it imports only the standard library, numpy and pyarrow."""
