"""`make demo`, `make bench`, `make verify`: a fault is a line. Ctrl-C is in test_signals."""

import sys

from stages.transfer import command
from tests.conftest import PROJECT, Project, one_line


def test_an_unknown_argument_is_a_line(fresh: Project) -> None:
    for name in ("bench", "verify"):
        words = (sys.executable, "-m", "stages.transfer.command", name, "--fast")
        assert one_line(fresh.run(*words)).startswith("error: unrecognized arguments: --fast;")


def test_make_calls_each_of_them() -> None:
    makefile = (PROJECT / "Makefile").read_text()
    for name in command.COMMANDS.keys() - {"dvc", "rival"}:
        assert f"\n{name}: .venv/runtime" in makefile
        assert f"stages.transfer.command {name}" in makefile
