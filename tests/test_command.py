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
        assert f"$(COMMAND) {name}" in makefile


def test_who_stops_reading_gets_no_traceback(fresh: Project) -> None:
    listed = fresh.run("sh", "-c", f"{sys.executable} -m stages.transfer.command backbones | true")
    assert (listed.returncode, listed.stderr) == (0, "")
    full = fresh.run(
        "sh", "-c", f"{sys.executable} -m stages.transfer.command point default >/dev/full"
    )
    assert one_line(full) == "error: [Errno 28] No space left on device"
