"""The environment: nothing in it changes from run to run, and it is kept beside dvc.lock."""

import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.transfer import environment
from stages.transfer.errors import PipelineError
from tests.conftest import PROJECT, Project

ENVIRONMENTS = st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=4), max_size=3)


def test_it_names_what_rounding_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "3")
    found = environment.environment()
    assert found["python"] == platform.python_version()
    assert found["keras"] == metadata.version("keras")
    assert found["precision"] == "float32"
    assert found["processors"] == len(os.sched_getaffinity(0))
    assert found["TF_NUM_INTRAOP_THREADS"] == "3"
    assert "ONEDNN_MAX_CPU_ISA" not in found
    assert environment.environment() == found
    json.dumps(found)


def test_it_is_the_same_in_another_process_and_folder(tmp_path: Path) -> None:
    code = "import json; from stages.transfer.environment import environment as e; print(e() | {})"
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(PROJECT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for folder in (PROJECT, tmp_path)
    ]
    assert runs[0] == runs[1] == f"{environment.environment()}\n"
    assert str(Path.home()) not in runs[0]
    assert platform.node() not in runs[0]


CPUINFO = """\
processor\t: 0
model name\t: A Processor 1234
flags\t\t: fpu sse sse4_1 avx avx2 avx512_bf16 amx_tile fma movbe

processor\t: 1
model name\t: Another
flags\t\t: fpu
"""


def test_the_processor_is_read_off_linux_and_left_open_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: CPUINFO)
    assert environment.processor_model() == "A Processor 1234"
    expected = ["amx_tile", "avx", "avx2", "avx512_bf16", "fma", "sse4_1"]
    assert environment.instruction_sets() == expected
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "Features\t: fp asimd sve bf16 crc32\n")
    assert environment.instruction_sets() == ["asimd", "bf16", "sve"]

    def missing(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert environment.instruction_sets() == []
    assert environment.processor_model()


def test_differences_in_words() -> None:
    there: environment.Environment = {"keras": "3.15.1", "instructions": "avx avx512f fma"}
    here: environment.Environment = {"keras": "3.16.0", "instructions": "avx fma sve", "A": 1}
    assert environment.differences(there, there) == []
    assert environment.differences(there, here) == [
        "keras: 3.15.1 there, 3.16.0 here",
        "instructions: avx512f sve on one side only",
        "A: not set there, 1 here",
    ]


@given(ENVIRONMENTS, ENVIRONMENTS)
def test_two_environments_are_the_same_or_it_is_said_in_what_not(a: dict, b: dict) -> None:
    a, b = ({name: value for name, value in each.items() if value != "not set"} for each in (a, b))
    assert bool(environment.differences(a, b)) == (a != b)


@given(st.dictionaries(st.text(max_size=5), ENVIRONMENTS, max_size=5))
def test_the_record_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, made: dict
) -> None:
    path = tmp_path_factory.getbasetemp() / "record/environment.json"
    environment.write(path, made)
    written = path.read_bytes()
    assert environment.read(path) == made
    environment.write(path, environment.read(path))
    assert path.read_bytes() == written  # Git sees no change


def test_each_stage_has_the_environment_that_it_ran_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "environment.json"
    assert environment.read(path) == {}
    for stage in ("download", "features", "fine_tune"):
        environment.record(stage, path)
    assert len(json.loads(path.read_text())) == 1
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    environment.record("fine_tune", path)
    made = environment.read(path)
    assert made["download"] == made["features"]
    assert environment.differences(made["features"], made["fine_tune"]) == [
        "TF_ENABLE_ONEDNN_OPTS: not set there, 0 here"
    ]
    path.write_text("<<<<<<< HEAD\n")  # a merge that nobody has finished
    environment.record("features", path)
    assert "begun anew" in capsys.readouterr().out
    assert list(environment.read(path)) == ["features"]


@pytest.mark.parametrize(
    "content", ["", "{", "3", '{"a": 1}', "[1]", '[{"stages": 3}]', "[" * 9999]
)
def test_another_content_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "environment.json").write_text(content)
    with pytest.raises(PipelineError, match="expected what a run of a stage writes"):
        environment.read(tmp_path / "environment.json")


def test_a_run_leaves_it_for_git_and_a_second_one_changes_nothing(
    finished: Project, tmp_path: Path
) -> None:
    """`finished` has committed everything that its run had left."""
    project = finished.copy(tmp_path)
    made = environment.read(project.folder / environment.RECORD)
    assert set(made) == {
        "download", "backbone", "preprocess", "features", "train_head", "fine_tune", "evaluate"
    }  # fmt: skip
    tracked = project.run("git", "ls-files", "data").stdout.split()
    assert tracked == ["data/.gitignore", "data/environment.json"]
    project.set(gate={"minimum": 0.01})
    assert project.stage("preprocess").returncode == 0
    assert project.dvc("repro", "--single-item", "--force", "download").returncode == 0
    assert project.run("git", "status", "--porcelain").stdout == " M params.yaml\n"
