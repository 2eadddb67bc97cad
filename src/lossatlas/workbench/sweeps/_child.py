"""The process that measures cells for a worker: reads tasks from its input, writes what happens to its output.

    python -m lossatlas.workbench.sweeps._child

A cell may hang, take all memory or crash; whoever started this process ends it then, and starts another.
"""

import contextlib
import os
import pathlib
import pickle
import queue
import sys
import threading

from lossatlas.workbench.sweeps._messages import EndOfTask, receive, send


def main() -> None:
    """Measure the cells of every task until the input ends."""
    tasks, results = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a study prints is no message
    # Of all processes the kernel should end this one first, when memory runs out.
    with contextlib.suppress(OSError):
        pathlib.Path("/proc/self/oom_score_adj").write_text("500")
    waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def read() -> None:
        try:
            while True:
                waiting.put(receive(tasks))
        except (EOFError, OSError):
            os._exit(0)  # the worker is gone, whatever is being measured

    threading.Thread(target=read, daemon=True).start()
    from lossatlas._process import prepare_jax

    prepare_jax()
    import cloudpickle

    from lossatlas.workbench.sweeps._measure import measure_cells

    while True:
        task, together = pickle.loads(waiting.get())
        for event in measure_cells(task, together=together):
            send(results, event, cloudpickle.dumps)
        send(results, EndOfTask())


if __name__ == "__main__":
    main()
