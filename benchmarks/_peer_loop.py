"""The side of a peer: answers tasks in JSON, a line each. Imports nothing but the standard library."""

import contextlib
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable, Sequence


def serve(tasks: dict[str, Callable[..., dict]], packages: Sequence[str]) -> None:
    """Answer until the input ends. A task returns what it found; where it sets `seconds` itself, that is kept.

    **Arguments:**
    - `tasks`: by name. `packages`: whose versions are told.
    """
    # What a peer prints must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["task"] == "versions":
            found: dict = {name: importlib.metadata.version(name) for name in packages}
        else:
            try:
                with contextlib.redirect_stdout(sys.stderr):
                    wall, processor = time.perf_counter(), time.process_time()
                    found = tasks[asked["task"]](**asked["options"])
                found.setdefault("seconds", time.perf_counter() - wall)
                found.setdefault("processor", time.process_time() - processor)
            except Exception as error:  # noqa: BLE001  (whatever a peer raises is its answer)
                found = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(found) + "\n")
        answers.flush()
