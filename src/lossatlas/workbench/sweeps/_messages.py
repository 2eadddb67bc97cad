"""Messages between a worker and the process that measures its cells, pickled, each with its length first."""

import pickle
from typing import IO, Any


class EndOfTask:
    """Said after the last cell of a task."""


def send(stream: IO[bytes], message: Any, dumps: Any = pickle.dumps) -> None:
    """Write a message, its length first."""
    content = dumps(message)
    stream.write(len(content).to_bytes(8, "big") + content)
    stream.flush()


def receive(stream: IO[bytes]) -> bytes:
    """Read a message, still pickled.

    **Raises:** `EOFError` where the other end is gone.
    """
    length = stream.read(8)
    content = stream.read(int.from_bytes(length, "big")) if len(length) == 8 else b""
    if not content:
        raise EOFError
    return content
