"""State the version of hypergen: once, for the package, its metadata and the record of a run."""

__version__ = "0.1.0"
