"""Peers in the environments that the benchmarks make; a test skips where one is absent, and says how to make it."""

import pathlib
import sys

import pytest


BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import _peers  # noqa: E402


@pytest.fixture(scope="session")
def peer():
    """`peer(name, script)`: a peer that runs a script of the benchmarks; what a task of it raises fails the test."""
    running: dict[tuple[str, ...], _peers.Peer] = {}

    def start(name: str, script: str, *arguments: str) -> _peers.Peer:
        key = (name, script, *arguments)
        if key not in running:
            found = _peers.Peer(name, script, arguments)
            try:
                found.environment(make=False)
            except _peers.NotRun as reason:
                pytest.skip(str(reason))
            found.start()
            running[key] = found
        return running[key]

    yield start
    for found in running.values():
        found.stop()
