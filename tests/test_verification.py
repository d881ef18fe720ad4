"""`make verify`: it passes on the same bits, and fails on everything that it should."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from stages.transfer.bench import processes
from stages.transfer.environment import Environment
from stages.transfer.errors import PipelineError
from stages.transfer.verification import clones
from stages.transfer.verification.comparison import (
    COMPARED,
    TOLERANCE,
    Result,
    aligned,
    compare,
    of_another_archive,
    result,
    table,
)
from tests.conftest import PROJECT, Project, one_line

VERIFY = (sys.executable, "-m", "stages.transfer.command", "verify")
HERE: dict[str, Environment] = {stage: {"processor": "A", "keras": "3"} for stage in COMPARED}
STAGE = st.integers(0, len(COMPARED) - 1)


def made(
    name: str = "run 1", accuracy: float = 0.9, digests: Mapping[str, str] | None = None
) -> Result:
    """Return a result with an output "x" of each stage, whose digest is "0" or in `digests`."""
    outputs = {stage: {"x": (digests or {}).get(stage, "0")} for stage in COMPARED}
    return Result(name, outputs, {stage: {"seed": 1} for stage in COMPARED}, HERE, accuracy)


def elsewhere(first: int) -> dict[str, Environment]:
    """Return environments that are other ones from a stage on."""
    other: Environment = {"processor": "B", "keras": "3"}
    return {s: other if i >= first else HERE[s] for i, s in enumerate(COMPARED)}


def test_the_same_bits_pass_whatever_else_is_known() -> None:
    plain = made()
    for other in (
        plain,
        plain._replace(accuracy=None),
        plain._replace(environments={}),
        plain._replace(environments=elsewhere(0)),
        plain._replace(inputs={stage: {} for stage in COMPARED}),
    ):
        assert compare(plain, other).passed


@given(st.dictionaries(st.sampled_from(COMPARED), st.just("1"), min_size=1))
def test_a_difference_in_the_same_environment_fails_and_is_named(changed: dict[str, str]) -> None:
    verdict = compare(made("dvc.lock"), made(digests=changed))
    assert not verdict.passed
    first = min(changed, key=COMPARED.index)
    assert verdict.text.startswith(f"dvc.lock and run 1 differ from {first} on (x)")
    assert "in the same environment" in verdict.text


@given(STAGE, STAGE)
def test_another_environment_excuses_what_comes_after_it_only(moved: int, differs: int) -> None:
    here = made(digests={COMPARED[differs]: "1"})._replace(environments=elsewhere(moved))
    verdict = compare(made("dvc.lock"), here)
    assert verdict.passed == (moved <= differs)
    assert ("processor: A there, B here" in verdict.text) == verdict.passed


@given(st.integers(0, 10_000), st.sampled_from((-101, -100, -99, 0, 99, 100, 101, 300)))
def test_the_tolerance_is_held_to_the_last_image(right: int, more: int) -> None:
    """Accuracies of 10,000 images: binary fractions must not move the boundary."""
    other = min(max(right + more, 0), 10_000)
    there = made("dvc.lock", right / 10_000)
    here = made("run 1", other / 10_000, {"evaluate": "1"})._replace(environments=elsewhere(0))
    verdict = compare(there, here)
    assert verdict.passed == (abs(other - right) <= TOLERANCE * 10_000)
    assert ("within the tolerance" if verdict.passed else "beyond the tolerance") in verdict.text


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"inputs": {s: {"seed": 2} for s in COMPARED}}, "other settings or code, seed"),
        ({"environments": {}}, "where run 1 ran download is not recorded"),
        ({"accuracy": None}, "val_accuracy is missing"),
        ({"outputs": {s: {} for s in COMPARED}}, "differ from download on (x)"),
        ({"outputs": {s: {"x": "0", "y": "0"} for s in COMPARED}}, "differ from download on (y)"),
    ],
)
def test_what_another_environment_does_not_excuse(changed: dict[str, Any], said: str) -> None:
    there = made("dvc.lock")
    here = made(digests=dict.fromkeys(COMPARED, "1"))._replace(environments=elsewhere(0))
    assert compare(there, here).passed
    if "outputs" in changed:
        here = here._replace(environments=HERE)
    verdict = compare(there, here._replace(**changed))
    assert not verdict.passed
    assert said in verdict.text


def test_the_committed_lock_of_this_project_is_understood() -> None:
    lock = yaml.safe_load((PROJECT / "dvc.lock").read_text())
    found = result("dvc.lock", lock, {}, json.loads((PROJECT / "metrics.json").read_text()))
    assert set(found.outputs["fine_tune"]) == {"cifar10.h5", "data/fine_tune/curve.csv"}
    assert "metrics.json" in found.outputs["evaluate"]
    assert found.inputs["fine_tune"]["fine_tune.seed"] == 1
    assert "stages/fine_tune.py" in found.inputs["fine_tune"]
    assert not any(key.startswith(("data/", "cifar10.h5")) for key in found.inputs["evaluate"])
    assert found.accuracy
    del lock["stages"]["features"]["outs"]
    with pytest.raises(PipelineError, match="'outs' is missing"):
        result("dvc.lock", lock, {}, {})


@pytest.mark.parametrize("lock", [None, 3, [], {}, {"stages": None}, {"stages": {"download": 1}}])
def test_another_lock_is_refused(lock: Any) -> None:
    with pytest.raises(PipelineError, match="expected every stage"):
        result("dvc.lock", lock, {}, {})


def test_another_archive_is_no_difference_of_the_runs() -> None:
    there = made("dvc.lock")
    for stage in COMPARED:
        here = made(digests={stage: "1"})
        assert of_another_archive(there, here) == (stage == "download")
        assert not compare(there, here).passed  # weights that differ, say, have no such excuse
    other = made(digests={"download": "1"})._replace(inputs={s: {"seed": 2} for s in COMPARED})
    assert not of_another_archive(there, other)


@pytest.mark.parametrize("value", [None, True, "0.9", float("nan"), 1.1, -0.1, []])
def test_an_accuracy_that_is_none(value: Any) -> None:
    lock = yaml.safe_load((PROJECT / "dvc.lock").read_text())
    for metrics in ({"val_accuracy": value}, value):
        assert result("run 1", lock, {}, metrics).accuracy is None


def test_the_table_has_a_verdict_for_each_output() -> None:
    first, second = made("run 1", digests={"fine_tune": "1"}), made("run 2")
    committed = made("dvc.lock", digests={"features": "2" * 32})
    rows = {row[0]: row[1:] for row in table(first, second, committed)}
    assert rows["stage"] == ["output", "run 1", "run 2", "dvc.lock", "verdict"]
    assert rows["backbone"] == ["x", "0", "0", "0", "identical"]
    assert rows["features"] == ["x", "0", "0", "22222222", "not as in dvc.lock"]
    assert rows["fine_tune"] == ["x", "1", "0", "0", "the runs differ"]
    rows = {row[0]: row[1:] for row in table(first, first, None)}
    assert rows["backbone"] == ["x", "0", "0", "–", "identical"]  # noqa: RUF001
    assert aligned([["a", "bbb", ""], ["aa", "b", "c"]]) == "a   bbb\naa  b    c"


class Verified(NamedTuple):
    """What `make verify` said of a finished project, and the clones that it was told to keep."""

    project: Project
    run: subprocess.CompletedProcess[str]
    root: Path
    clones: list[Path]


@pytest.fixture(scope="module")
def verified(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Verified:
    """Two real runs, among all that a user's own settings could do to them."""
    root = tmp_path_factory.mktemp("verified")
    keras_home, dvc_config = root / "keras", root / "config"
    for folder in (keras_home, dvc_config):
        folder.mkdir()
    settings = {"floatx": "float16", "epsilon": 0.1, "image_data_format": "channels_first"}
    (keras_home / "keras.json").write_text(json.dumps(settings))
    project = finished.copy(root)
    # One that has all results, so that no stage would run: for all projects, and for this one.
    cache = f"[cache]\n    dir = {finished.folder / '.dvc/cache'}\n"
    (dvc_config / "config").write_text(cache)
    with (project.folder / ".dvc/config").open("a") as config:
        config.write(cache)
    project.run("git", "commit", "-qam", "a shared cache")
    run = project.run(
        *VERIFY,
        f"--keep={root / 'kept'}",
        MIRROR="",  # the archive is found in the project's own outputs
        KERAS_HOME=str(keras_home),
        KERAS_MAX_EPOCHS="1",
        DVC_GLOBAL_CONFIG_DIR=str(dvc_config),
        GIT_DIR=str(root / "nowhere"),
    )
    return Verified(project, run, root, [root / f"kept/{number}/project" for number in (1, 2)])


@pytest.mark.faults
def test_two_runs_and_the_committed_one_are_the_same_bits(
    verified: Verified,
) -> None:
    said = verified.run.stdout
    assert verified.run.returncode == 0, said + verified.run.stderr
    for stage in COMPARED:  # computed each time, not taken from a cache
        assert said.count(f"Running stage '{stage}'") == 2
    *lines, last = said.splitlines()
    rows = [line.split() for line in lines if line.endswith("identical")]
    outputs = {row[1] for row in rows}
    assert {"cifar10.h5", "metrics.json", "data/features", "data/head/head.npz"} <= outputs
    assert all(row[2] == row[3] == row[4] for row in rows)
    assert len(rows) == len(outputs) == 10
    assert last.startswith("verify: passed, commit ")
    assert last.endswith("run 1 and run 2 are identical; dvc.lock and run 1 are identical")
    assert verified.project.run("git", "status", "--porcelain").stdout == ""


@pytest.mark.faults
def test_no_output_holds_a_path_or_the_hour(verified: Verified) -> None:
    """The runs were in other folders, and a minute apart; the first one an hour ago, say."""
    outputs = yaml.safe_load((verified.clones[0] / "dvc.lock").read_text())["stages"].values()
    paths = [Path(out["path"]) for own in outputs for out in own.get("outs", [])]
    files = [
        file
        for path in paths
        for file in ([verified.clones[0] / path], (verified.clones[0] / path).rglob("*"))[
            (verified.clones[0] / path).is_dir()
        ]
        if file.suffix != ".gz"
    ]
    assert len(files) > len(paths)  # data/features has several
    for file in files:
        content = file.read_bytes()
        for unwanted in (verified.root, Path.home() / ".", time.strftime("%Y-%m-%d")):
            assert str(unwanted).encode() not in content, f"{file} holds {unwanted}"


def spoil(project: Path, output: str) -> None:
    """Change the digest of an output in dvc.lock."""
    path = project / "dvc.lock"
    lock = yaml.safe_load(path.read_text())
    for stage in lock["stages"].values():
        for out in stage.get("outs", []):
            if out["path"] == output:
                out["md5"] = "0" * 32
    path.write_text(yaml.safe_dump(lock))


def of_another_machine(project: Path) -> None:
    path = project / "data/environment.json"
    content = json.loads(path.read_text())
    content[0]["environment"]["processor"] = "Another 1234"
    path.write_text(json.dumps(content))


@pytest.mark.faults
def test_a_changed_lock_fails_unless_it_is_of_another_machine(
    verified: Verified, finished: Project, tmp_path: Path
) -> None:
    here = clones.committed(verified.clones[1])._replace(name="run 2")
    project = finished.copy(tmp_path).folder
    assert compare(clones.committed(project), here).passed
    spoil(project, "cifar10.h5")
    verdict = compare(clones.committed(project), here)
    assert not verdict.passed
    assert "dvc.lock and run 2 differ from fine_tune on (cifar10.h5), in the same" in verdict.text
    of_another_machine(project)
    verdict = compare(clones.committed(project), here)
    assert verdict.passed
    assert "another environment (processor: Another 1234 there" in verdict.text
    assert "0.0000 apart, within the tolerance of 0.01" in verdict.text
    (project / "data/environment.json").unlink()
    verdict = compare(clones.committed(project), here)
    assert not verdict.passed
    assert "where dvc.lock ran download is not recorded" in verdict.text


@pytest.mark.faults
def test_a_perturbed_seed_and_a_changed_lock_fail(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path)
    spoil(project.folder, "data/processed/cifar10.npz")
    project.run("git", "commit", "-qam", "changed")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    run = project.run(*VERIFY, "--perturb", "fine_tune.seed=2", TMPDIR=str(temporary))
    said = one_line(run)
    assert said.startswith("error: verify: FAILED, commit ")
    assert "run 1 and run 2 differ from fine_tune on (cifar10.h5, data/fine_tune/curve" in said
    assert "other settings or code, fine_tune.seed" in said
    assert "dvc.lock and run 1 differ from preprocess on (data/processed/cifar10.npz), in" in said
    lines = {line.split()[1]: line for line in run.stdout.splitlines() if "  " in line.strip()}
    assert lines["data/features"].endswith("identical")
    assert lines["data/processed/cifar10.npz"].endswith("not as in dvc.lock")
    assert lines["cifar10.h5"].endswith("the runs differ")
    assert list(temporary.iterdir()) == []


@pytest.mark.faults
def test_on_another_machine_the_tolerance_counts(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path)
    spoil(project.folder, "data/features")
    of_another_machine(project.folder)
    project.run("git", "commit", "-qam", "changed")
    run = project.run(*VERIFY)
    assert run.returncode == 0, run.stdout + run.stderr
    last = run.stdout.splitlines()[-1]
    assert "run 1 and run 2 are identical" in last
    assert "dvc.lock and run 1 differ from features on (data/features), made in another" in last
    assert last.endswith("within the tolerance of 0.01")


@pytest.mark.faults
def test_an_interrupted_one_leaves_nothing_behind(finished: Project, tmp_path: Path) -> None:
    with subprocess.Popen(
        VERIFY,
        cwd=finished.folder,
        env=os.environ | {"TMPDIR": str(tmp_path), "MIRROR": str(finished.mirror)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        for line in process.stdout:
            if line.startswith("Running stage"):
                break
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=120)
    assert said == "verify: interrupted; nothing is left of it but what --keep names\n"
    assert process.returncode != 0
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_which_a_cache_had_stages_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["Running stage 'download':", "Stage 'backbone' is cached - skipping run"]
    done = processes.Run(1.0, 1.0, lines, [0.1, 0.2], [])
    monkeypatch.setattr(processes, "run", lambda *_: done)
    with pytest.raises(PipelineError, match=r"^run 1: DVC did not run backbone, preprocess, "):
        clones.run("run 1", tmp_path, tmp_path)


def uncommitted(project: Project) -> None:
    project.set(fine_tune={"seed": 7})


def new_module(project: Project) -> None:
    (project.folder / "stages/new.py").touch()


def bad_commit(project: Project) -> None:
    project.set(gate={"minimum": 2})
    project.run("git", "commit", "-qam", "wrong")


def no_repository(project: Project) -> None:
    (project.folder / ".git").rename(project.folder / "git")


def nothing(_: Project) -> None:
    pass


@pytest.mark.parametrize(
    ("change", "arguments", "said"),
    [
        (uncommitted, [], "params.yaml: not committed"),
        (new_module, [], "stages/new.py: not committed"),
        (bad_commit, [], "error: params.yaml: gate.minimum = 2: expected"),
        (no_repository, [], "not a git repository"),
        (nothing, [], "error: dvc.lock: not committed; run `make reproduce`"),
        (nothing, ["-S", "seed=1"], "-S seed=1: expected section.key=value"),
        (nothing, ["-S", "gate.minimum=2"], "gate.minimum = 2: expected"),
        (nothing, ["--perturb", "fine_tune.sed=1"], "nearest: fine_tune.seed"),
        (nothing, ["--threads", "0"], "expected a whole number from 1"),
        (nothing, ["--keep", "stages"], "--keep stages: expected a folder that does not exist"),
        (nothing, ["fine_tune"], "--help lists what is known"),
    ],
)
def test_a_mistake_is_one_line_before_any_run(
    fresh: Project,
    tmp_path: Path,
    change: Callable[[Project], None],
    arguments: list[str],
    said: str,
) -> None:
    project = fresh.copy(tmp_path)
    change(project)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    run = project.run(*VERIFY, *arguments, TMPDIR=str(temporary))
    assert said in one_line(run)
    assert "Running stage" not in run.stdout
    assert list(temporary.iterdir()) == []
