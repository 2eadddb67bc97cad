"""Run the Python blocks of pages in one process, as a reader would: page after page, each with names of its own.

Reads a list of pages from stdin (JSON: name, and blocks of line, code and what they print), and writes what went wrong.
One process, so that what the pages share is imported and compiled once.
"""

import contextlib
import io
import json
import linecache
import sys
import time
import traceback


def run(page: dict) -> list[str]:
    """The problems of a page; it ends at the first block that fails."""
    names: dict = {"__name__": "__main__"}
    problems = []
    for line, code, printed in page["blocks"]:
        place = f"{page['name']}, line {line}"
        # Padded, so that tracebacks have the lines of the page; known to inspect, which studies need.
        source = "\n" * (line - 1) + code
        linecache.cache[place] = (len(source), None, source.splitlines(keepends=True), place)
        output = io.StringIO()
        try:
            with contextlib.redirect_stdout(output):
                exec(compile(source, place, "exec"), names)  # noqa: S102
        except BaseException:  # noqa: BLE001
            return [*problems, f"{place}:\n{traceback.format_exc()}"]
        if printed is not None and output.getvalue().strip() != printed.strip():
            problems.append(f"{place} prints\n{output.getvalue()}\nand the page says\n{printed}")
    return problems


if __name__ == "__main__":
    for page in json.load(sys.stdin):
        begin = time.process_time()
        if "jax" in sys.modules:
            sys.modules["jax"].config.update("jax_enable_x64", False)  # every page begins with the default
        for problem in run(page):
            sys.stdout.write(problem + "\n")
        sys.stderr.write(f"{time.process_time() - begin:6.1f} s of processor  {page['name']}\n")
