"""Numpy kernels of statistics over Arrow arrays; they import only the standard library, numpy and pyarrow."""
