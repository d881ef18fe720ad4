"""What is installed and what CI runs is what was chosen: locks, actions, permissions."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

from tests.conftest import PROJECT, Project

LOCKS = RUNTIME, CLUSTER, DEVELOPMENT = (
    "requirements.txt",
    "requirements-cluster.txt",
    "requirements-dev.txt",
)
LOCKED = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9.-]*)(\[[a-z0-9,-]+\])?==(?P<version>[A-Za-z0-9.+]+)"
    r"( ; (?P<marker>[^@;]+?))?( --hash=sha256:[0-9a-f]{64})+"
)
WORKFLOWS = sorted((PROJECT / ".github/workflows").glob("*.yml"))
TRIGGERS = {"push", "pull_request", "schedule", "workflow_dispatch"}
USES = re.compile(r"^\s*(?:- )?uses: (?P<action>\S+)@[0-9a-f]{40} # v\d+\.\d+\.\d+$", re.MULTILINE)
OF_A_MACHINE = re.compile(r"/(home|root|work|Users)/\w|(index-url|find-links|trusted-host)[= ]\w")


def requirements(text: str) -> list[dict[str, str]]:
    """Return the requirements of a lock; fail for any line that is not one with its hashes."""
    lines = re.sub(r"\s*\\\n\s*", " ", re.sub(r"(?m)^\s*#.*\n", "", text)).splitlines()
    matches = [LOCKED.fullmatch(line) for line in lines]
    assert all(matches), f"no version with hashes: {lines[matches.index(None)][:100]}"
    return [match.groupdict(default="") for match in matches if match]


def pins(name: str, python: str) -> dict[str, str]:
    """Return the versions that a lock gives to one Python on Linux."""
    here = {"python_full_version": f"{python}.0", "python_version": python, "sys_platform": "linux"}
    chosen = [
        entry
        for entry in requirements((PROJECT / name).read_text())
        if not entry["marker"] or Marker(entry["marker"]).evaluate(environment=dict(here))
    ]
    names = [canonicalize_name(entry["name"]) for entry in chosen]
    least = 10 if name == CLUSTER else 20  # packages
    assert len(names) == len(set(names)) > least, "none, or two versions for one Python"
    return dict(zip(names, (entry["version"] for entry in chosen), strict=True))


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_locks_agree_and_hold_what_pyproject_asks_for(python: str) -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    runtime, cluster, development = (pins(name, python) for name in LOCKS)
    assert cluster.items() <= (cluster | runtime).items()
    assert development.items() <= (development | runtime).items()
    assert cluster.items() <= (runtime | development).items()
    assert groups["dev"].pop(0) == {"include-group": "cluster"}
    for locked, lines in (
        (runtime, project["project"]["dependencies"]),
        (cluster, groups["cluster"]),
        (development, groups["dev"]),
    ):
        for requirement in map(Requirement, lines):
            version = locked[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(version), f"{requirement} is locked at {version}"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_permits_the_least(path: Path) -> None:
    text = path.read_text()
    workflow = YAML().load(text)
    jobs = workflow["jobs"].values()
    steps = [step for job in jobs for step in job["steps"]]
    assert set(workflow["on"]) <= TRIGGERS
    assert workflow["permissions"] == {}
    assert all(job["permissions"] == {"contents": "read"} for job in jobs)
    assert "secrets" not in re.sub("#.*", "", text)
    assert not any("${{" in step.get("run", "") for step in steps)  # others' text in a shell
    for step in steps:
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False
    # Each action is pinned by its commit, its version beside it.
    used = [step["uses"].partition("@")[0] for step in steps if "uses" in step]
    assert used == [match["action"] for match in USES.finditer(text)]


def test_the_summary_of_a_job_has_metrics_and_the_verdict(project: Project) -> None:
    workflow = YAML().load(PROJECT / ".github/workflows/ci.yml")
    steps = workflow["jobs"]["reproduce"]["steps"]
    (script,) = (step["run"] for step in steps if step.get("name") == "summary")
    branch = "git update-ref refs/remotes/origin/main HEAD~1"  # where nothing had run yet
    done = project.run("bash", "-ec", f"{branch}\n{script}", GITHUB_STEP_SUMMARY="summary.md")
    assert done.returncode == 0, done.stderr
    computed, compared = (project.folder / "summary.md").read_text().split("###")[1:]
    assert "| val_accuracy " in computed
    assert "\ngate: passed, " in computed
    assert re.search(r"\| metrics.json +\| val_accuracy +\| - ", compared)


def test_no_tracked_file_names_a_machine_or_its_registry() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True)
    names = [name for name in listed.stdout.splitlines() if (PROJECT / name).is_file()]
    assert len(names) > 50
    assert [
        name for name in names if OF_A_MACHINE.search((PROJECT / name).read_text(errors="replace"))
    ] == []
    locks = (PROJECT / name for name in LOCKS)
    assert "://" not in "".join(path.read_text() for path in locks)
