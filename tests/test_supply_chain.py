"""What is installed and what CI runs is what was chosen: locks, actions, permissions, the audit."""

import base64
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import BIN, PROJECT

RUNTIME, DEVELOPMENT = LOCKS = ("requirements.txt", "requirements-dev.txt")
LOCKED = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9.-]*(\[[a-z0-9,-]+\])?)==(?P<version>[A-Za-z0-9.+]+)"
    r"( ; (?P<marker>[^@;]+?))?(?P<hashes>( --hash=sha256:[0-9a-f]{64})+)"
)
WORKFLOWS = sorted((PROJECT / ".github/workflows").glob("*.yml"))
TRIGGERS = {"push", "pull_request", "schedule", "workflow_dispatch"}
USES = re.compile(r"^\s*(?:- )?uses: (?P<action>\S+)@[0-9a-f]{40} # v\d+\.\d+\.\d+$")


def requirements(text: str) -> list[dict[str, str]]:
    """Return the requirements of a lock; fail for any line that is not one with its hashes."""
    lines = [line.partition(" #")[0] for line in text.splitlines() if not line.startswith("#")]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    found = []
    for line in filter(str.strip, joined.splitlines()):
        if line.lstrip().startswith("#"):
            continue
        match = LOCKED.fullmatch(line.rstrip())
        assert match, f"not a version with hashes: {line[:100]}"
        found.append(match.groupdict(default=""))
    return found


def lock(name: str) -> list[dict[str, str]]:
    return requirements((PROJECT / name).read_text())


def pins(name: str, python: str = "3.11") -> dict[str, str]:
    """Return the versions that a lock gives to one Python on Linux."""
    here = {"python_full_version": f"{python}.0", "python_version": python, "sys_platform": "linux"}
    chosen = [
        entry
        for entry in lock(name)
        if not entry["marker"] or Marker(entry["marker"]).evaluate(environment=dict(here))
    ]
    names = [canonicalize_name(entry["name"].partition("[")[0]) for entry in chosen]
    assert len(names) == len(set(names)), "two versions for one Python"
    return dict(zip(names, (entry["version"] for entry in chosen), strict=True))


@pytest.mark.parametrize("name", LOCKS)
def test_every_requirement_is_one_version_with_hashes_and_no_address(name: str) -> None:
    assert len(lock(name)) > 20
    assert "://" not in (PROJECT / name).read_text()


@pytest.mark.parametrize(
    "line",
    [
        "six==1.17.0",
        "six>=1.17 --hash=sha256:" + "0" * 64,
        "six==1.17.* --hash=sha256:" + "0" * 64,
        "six==1.17.0 --hash=md5:" + "0" * 32,
        "six==1.17.0 --hash=sha256:" + "0" * 63,
        "six @ https://example.com/six.whl --hash=sha256:" + "0" * 64,
        "https://example.com/six.whl --hash=sha256:" + "0" * 64,
        "--index-url https://example.com",
        "--trusted-host example.com",
        "-e .",
        "-r other.txt",
        "six==1.17.0 ; python_version < '3.12' \\\n    # via something\nsix2==1",
    ],
)
def test_a_lock_with_anything_else_is_refused(line: str) -> None:
    good = f"six==1.17.0 ; sys_platform == 'win32' \\\n    --hash=sha256:{'0' * 64}\n    # via x\n"
    assert [entry["name"] for entry in requirements(f"# made by\n{good}{good}")] == ["six", "six"]
    with pytest.raises(AssertionError, match="not a version with hashes"):
        requirements(f"{good}{line}\n")


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_both_locks_can_be_installed_in_one_environment(python: str) -> None:
    runtime, development = pins(RUNTIME, python), pins(DEVELOPMENT, python)
    assert {name: runtime.get(name, version) for name, version in development.items()} == (
        development
    )


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_locks_hold_what_pyproject_asks_for(python: str) -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    asked = (
        (RUNTIME, project["project"]["dependencies"]),
        (DEVELOPMENT, project["dependency-groups"]["dev"]),
    )
    for name, lines in asked:
        locked = pins(name, python)
        for requirement in map(Requirement, lines):
            version = locked.get(canonicalize_name(requirement.name))
            assert version, f"{name} lacks {requirement.name}: make lock"
            assert requirement.specifier.contains(version), f"{requirement} is locked at {version}"


def weaknesses(text: str) -> list[str]:
    """Return what a workflow permits beyond the least that it needs."""
    # Unlike the safe loader, this one makes no boolean of `on`, because all it makes is strings.
    workflow: dict[str, Any] = yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506
    found = []
    triggers = workflow["on"]
    if unknown := set([triggers] if isinstance(triggers, str) else triggers) - TRIGGERS:
        found.append(f"triggered by {', '.join(sorted(unknown))}")
    if "secrets" in re.sub(r"#.*", "", text):
        found.append("reads secrets")
    if "permissions" not in workflow:
        found.append("permissions: the repository's default")
    for name, part in {"the workflow": workflow, **workflow["jobs"]}.items():
        if part.get("permissions", {}) not in ({}, {"contents": "read"}):
            found.append(f"permissions of {name}: {part['permissions']}")
    used = []
    for name, job in workflow["jobs"].items():
        if not 0 < int(job.get("timeout-minutes", 0)) <= 120:
            found.append(f"{name}: no time limit")
        if "-latest" in job.get("runs-on", "-latest"):
            found.append(f"{name}: a runner that changes")
        for step in [job, *job.get("steps", [])]:
            used += [step["uses"]] if "uses" in step else []
            if "${{" in step.get("run", ""):
                found.append(f"{name}: a shell reads what others may have written")
            checks_out = step.get("uses", "").startswith("actions/checkout@")
            if checks_out and step.get("with", {}).get("persist-credentials") != "false":
                found.append(f"{name}: the token stays on disk")
    pinned = [match["action"] for line in text.splitlines() if (match := USES.fullmatch(line))]
    if [action.partition("@")[0] for action in used] != pinned:
        found.append("an action without a commit and its version")
    return found


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_permits_the_least(path: Path) -> None:
    assert weaknesses(path.read_text()) == []


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("  pull_request:", "  pull_request_target:", "triggered by pull_request_target"),
        ("permissions: {}\n", "", "default"),
        ("permissions: {}", "permissions: write-all", "permissions of the workflow"),
        ("contents: read", "contents: write", "permissions of reproduce"),
        ("contents: read", "contents: read\n      id-token: write", "permissions of reproduce"),
        ("    timeout-minutes: 90\n", "", "no time limit"),
        ("timeout-minutes: 90", "timeout-minutes: 360", "no time limit"),
        ("ubuntu-24.04", "ubuntu-latest", "a runner that changes"),
        ("persist-credentials: false", "persist-credentials: true", "the token stays"),
        ("        with:\n          persist-credentials: false\n", "", "the token stays"),
        ("08c6903cd8c0fde910a37f88322edcfb5dd907a8 # v5.0.0", "v5.0.0", "without a commit"),
        (" # v5.0.0", "", "without a commit"),
        ("dd907a8 # v5.0.0", "dd907a # v5.0.0", "without a commit"),
        ("- run: .ci/run", "- uses: x/y@main\n      - run: .ci/run", "without a commit"),
        ("- run: .ci/run", "- run: echo ${{ github.head_ref }}", "a shell reads"),
        ("run: .ci/run", "run: .ci/run\n        env: {T: '${{ secrets.T }}'}", "reads secrets"),
    ],
)
def test_each_weakness_is_seen(old: str, new: str, found: str) -> None:
    text = (PROJECT / ".github/workflows/ci.yml").read_text()
    assert old in text
    assert any(found in weakness for weakness in weaknesses(text.replace(old, new)))


def test_dependabot_renews_the_actions_and_leaves_the_locks() -> None:
    config = yaml.safe_load((PROJECT / ".github/dependabot.yml").read_text())
    assert [update["package-ecosystem"] for update in config["updates"]] == ["github-actions"]


# Loaded by Python at its start: PyPI's answer without a network.
ANSWERS = """
import requests

def get(self, url, **options):
    answer = requests.Response()
    answer.status_code = {status}
    answer._content = {body!r}
    if not answer.status_code:
        raise requests.ConnectionError("no network")
    return answer

requests.Session.get = get
"""
FLAW = '{"id": "PYSEC-1", "aliases": [], "fixed_in": ["99"], "summary": "a flaw"}'


@pytest.mark.faults
@pytest.mark.parametrize(
    ("status", "body", "said", "passes"),
    [
        (200, '{"vulnerabilities": []}', "No known vulnerabilities found", True),
        (200, f'{{"vulnerabilities": [{FLAW}]}}', "PYSEC-1", False),
        (404, "", "could not be audited", False),  # as a mirror without the JSON API says
        (503, "", "ServiceError", False),
        (0, "", "ConnectionError: no network", False),
    ],
    ids=["sound", "flawed", "unknown", "failing", "unreachable"],
)
def test_the_audit_passes_only_when_every_package_was_looked_up(
    status: int, body: str, said: str, passes: bool, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(ANSWERS.format(status=status, body=body.encode()))
    installed = ["-o", ".venv/runtime", "-o", ".venv/development"]
    result = subprocess.run(
        ["make", "-s", *installed, "audit", f"BIN={BIN}"],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said in result.stdout
    assert (result.returncode == 0) == passes
    assert ("error: audit" in result.stderr) != passes
    assert "Traceback" not in result.stdout + result.stderr


def build_wheel(folder: Path) -> str:
    """Build a wheel of a package with one empty module; return its SHA-256."""
    path = folder / "tiny-1.0-py3-none-any.whl"
    info = "tiny-1.0.dist-info"
    files = {
        "tiny.py": b"",
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode()[:-1]},"
        f"{len(content)}\n"
        for name, content in files.items()
    )
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)
        wheel.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.faults
def test_make_installs_nothing_whose_hash_is_another(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    sha256 = build_wheel(wheels)
    shutil.copy(PROJECT / "Makefile", tmp_path)
    offline = {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
    }

    def install(requirement: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "requirements.txt").write_text(f"{requirement}\n")
        return subprocess.run(
            ["make", ".venv/runtime", f"PYTHON={sys.executable}"],
            cwd=tmp_path,
            env={**os.environ, **offline},
            capture_output=True,
            text=True,
            check=False,
        )

    mark = tmp_path / ".venv/runtime"
    refused = {
        f"tiny==1.0 --hash=sha256:{'0' * 64}": "DO NOT MATCH THE HASHES",
        f"tiny==1.0 --hash=sha256:{sha256[::-1]}": "DO NOT MATCH THE HASHES",
        "tiny==1.0": "require-hashes",
        f"tiny>=1.0 --hash=sha256:{sha256}": "==",
    }
    for requirement, said in refused.items():
        result = install(requirement)
        assert result.returncode
        assert said in result.stderr
        assert not mark.exists()
        assert not list(tmp_path.glob(".venv/lib/*/site-packages/tiny*"))
    right = f"tiny==1.0 --hash=sha256:{sha256}"
    assert install(right).returncode == 0
    assert mark.exists()
    assert list(tmp_path.glob(".venv/lib/*/site-packages/tiny.py"))
    # A wheel that was exchanged after it was locked.
    (wheels / "tiny-1.0-py3-none-any.whl").write_bytes(b"PK another file")
    shutil.rmtree(tmp_path / ".venv")
    result = install(right)
    assert result.returncode
    assert "DO NOT MATCH THE HASHES" in result.stderr
    assert not mark.exists()
