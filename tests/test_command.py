"""`make demo`, `make bench`, `make verify` and 0-transfer.py: a fault is a line, Ctrl-C too."""

import signal
import sys

import pytest

from stages.transfer import command
from tests.conftest import PROJECT, Project, one_line

CTRL_C_DURING_IMPORTS = """
import signal, sys
class Finder:
    def find_spec(name, path=None, target=None):
        if name == "numpy":
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Finder)
"""


@pytest.mark.parametrize("name", command.COMMANDS)
def test_ctrl_c_while_a_command_imports_is_a_line(name: str, fresh: Project) -> None:
    code = f"from stages.transfer import command\nsys.exit(command.main({name!r}, []))"
    result = fresh.run(sys.executable, "-c", CTRL_C_DURING_IMPORTS + code)
    assert one_line(result) == f"{name}: interrupted; {command.COMMANDS[name].leaves}"
    assert result.returncode == 128 + signal.SIGINT


def test_ctrl_c_while_0_transfer_imports_is_a_line(fresh: Project) -> None:
    code = "import runpy\nrunpy.run_path('0-transfer.py', run_name='__main__')"
    result = fresh.run(sys.executable, "-c", CTRL_C_DURING_IMPORTS + code)
    assert one_line(result) == "interrupted; the next run goes on from there"
    assert result.returncode == 128 + signal.SIGINT


def test_an_unknown_argument_is_a_line(fresh: Project) -> None:
    for name in ("bench", "verify"):
        words = (sys.executable, "-m", "stages.transfer.command", name, "--fast")
        assert one_line(fresh.run(*words)).startswith("error: unrecognized arguments: --fast;")


def test_make_calls_each_of_them() -> None:
    makefile = (PROJECT / "Makefile").read_text()
    for name in command.COMMANDS:
        assert f"\n{name}: .venv/runtime" in makefile
        assert f"stages.transfer.command {name}" in makefile
