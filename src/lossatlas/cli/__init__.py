"""The command line: one file per command, each calls one function of the library.

Nothing here imports jax at the top, so `--help` and `--version` answer at once.
"""

from lossatlas.cli._app import main as main
