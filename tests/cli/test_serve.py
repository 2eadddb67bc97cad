"""`lossatlas app`: what is refused before it serves anything."""

import socket
import sys

import pytest

from lossatlas.cli import main


def code(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main(words)
    return ended.value.code, capsys.readouterr().err


def test_without_the_extra_it_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "nicegui", None)
    for name in [name for name in sys.modules if name.startswith("lossatlas.app.")]:
        monkeypatch.delitem(sys.modules, name)
    said = "lossatlas: The application needs nicegui; install it with: pip install 'lossatlas[app]'\n"
    assert code(capsys, "app") == (2, said)


def test_an_address_in_use_and_a_file_for_a_folder_are_one_line(capsys, tmp_path):
    pytest.importorskip("nicegui", reason="needs the extra app")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended, said = code(capsys, "app", "--port", port, "--no-browser", "--out", str(tmp_path))
        assert ended == 2
        assert said.startswith(f"lossatlas: Cannot listen on 127.0.0.1, port {port} (")
        assert said.endswith("choose another with --port or --host.\n")
    (tmp_path / "file").write_text("")
    ended, said = code(capsys, "app", "--out", str(tmp_path / "file"))
    assert ended == 2
    assert "is not a folder; give the folder of runs with --out." in said
    ended, said = code(capsys, "app", "--jobs", "0")
    assert (ended, "At least one job" in said) == (2, True)
