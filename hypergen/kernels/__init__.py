"""Compute the same numbers faster: skip at first reading. Imports torch and, of hypergen, `runtime.cache_folder`."""
