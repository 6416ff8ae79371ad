"""Numpy code that all learners share; it imports only the standard library, numpy and pyarrow."""
