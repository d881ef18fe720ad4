"""stages/__main__.py: a mistake is one line, said by whatever Python reads it."""

import re
import venv
from pathlib import Path

import pytest

from stages.files import digest
from tests.conftest import Project, one_line


def test_an_unknown_stage_is_named(fresh: Project) -> None:
    expected = "expected check or one of download, backbone, "
    assert f"error: 'train': {expected}" in one_line(fresh.stage("train"))
    assert f"error: '': {expected}" in one_line(fresh.stage())
    assert f"error: 'download check': {expected}" in one_line(fresh.stage("download", "check"))


def test_every_stage_checks_the_whole_of_params_yaml_first(fresh: Project, tmp_path: Path) -> None:
    project = fresh.copy(tmp_path)
    for change, expected in (
        ({"image_size": 16}, "backbone.image_size = 16: expected 32 or more for VGG16"),
        (
            {"name": "MobilNetV2"},
            "backbone.name = 'MobilNetV2': expected an application in .* "
            "lists them\\); nearest: MobileNetV2, MobileNet, .*",
        ),
        ({"nome": "VGG16"}, "unknown key backbone.nome; nearest: backbone.name"),
    ):
        project.set(backbone=change)
        for stage in ("check", "download"):
            said = one_line(project.stage(stage))
            assert re.fullmatch(f"error: params.yaml: {expected}", said)
    (project.folder / "params.yaml").unlink()
    assert one_line(project.stage("gate")).startswith("error: params.yaml is missing; ")


def test_a_python_without_the_packages_or_with_others_says_so(
    fresh: Project, tmp_path: Path
) -> None:
    project = fresh.copy(tmp_path)
    venv.create(tmp_path / "bare")  # as Debian's python3, say
    path = f"{tmp_path / 'bare/bin'}:/usr/bin:/bin"
    said = one_line(project.stage("gate", PATH=path))
    assert re.fullmatch(
        f"error: {tmp_path}/bare/bin/python3 lacks keras, expected [0-9.]+; run `make "
        "reproduce`, or `source .venv/bin/activate` and `unset PYTHONPATH` first",
        said,
    )
    lock = project.folder / "requirements.txt"
    lock.write_text(re.sub(r"(?m)^tensorflow==\S+", "tensorflow==2.0.1", lock.read_text()))
    (tmp_path / "tensorflow.py").write_text("raise SystemExit('imported')")
    said = one_line(project.stage("features", PYTHONPATH=str(tmp_path)))
    assert re.search(r"has tensorflow [0-9.]+, expected 2\.0\.1; run `make reproduce`", said)


@pytest.mark.parametrize("count", ["", "two"])
def test_a_number_of_processors_that_is_none_says_so(fresh: Project, count: str) -> None:
    said = one_line(fresh.stage("features", LOKY_MAX_CPU_COUNT=count))
    assert said == f"error: LOKY_MAX_CPU_COUNT = {count!r}: expected a number of processors"


@pytest.mark.parametrize("package", ["numpy", "h5py"])
def test_another_version_that_a_pythonpath_brings_says_so(
    fresh: Project, tmp_path: Path, package: str
) -> None:
    information = tmp_path / f"{package}-0.1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Name: {package}\nVersion: 0.1\n")
    said = one_line(fresh.stage("gate", PYTHONPATH=str(tmp_path)))
    assert re.search(rf" has {package} 0\.1, expected \d.+; .* `unset PYTHONPATH` first", said)


@pytest.mark.parametrize("package", ["pydantic", "keras"])
def test_a_failing_import_shows_its_own_message(
    fresh: Project, tmp_path: Path, package: str
) -> None:
    (tmp_path / f"{package}.py").write_text("raise ImportError('boom')")
    said = one_line(fresh.stage("train_head", PYTHONPATH=str(tmp_path)))
    assert re.fullmatch(r"error: \S+python3: boom; if a package is missing or damaged, .*", said)


def state(project: Project) -> dict[Path, str]:
    """Return the digests of all files at the top and in data, halves of them too."""
    paths = [*project.folder.glob("*.*"), *project.folder.glob("data/**/*.*")]
    return {path: digest(path) for path in paths if path.is_file() and path.name != ".lock"}


SLOW = ("backbone", "features", "train_head", "fine_tune", "evaluate")


@pytest.mark.parametrize(
    "stage",
    [
        "download",
        "preprocess",
        "report",
        *(pytest.param(name, marks=pytest.mark.faults) for name in SLOW),
    ],
)
def test_a_full_disk_is_one_line_and_nothing_half_written(project: Project, stage: str) -> None:
    """The disk is simulated by a limit of 512 bytes for each file."""
    before = state(project)
    said = one_line(project.run("sh", "-c", f"ulimit -f 1; exec python3 -m stages {stage}"))
    assert re.match(r"error: data/\S+: File too large; fix this, then run `dvc repro` ", said)
    assert state(project) == before
