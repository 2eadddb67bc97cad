"""The version of the installed package, read from its metadata."""

import importlib.metadata


__version__ = importlib.metadata.version("lossatlas")
