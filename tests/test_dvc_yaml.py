"""dvc.yaml lists what the code reads, and modules import only what they may."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.hydra import apply_overrides
from dvc.utils.serialize import loads_yaml, modify_yaml
from ruamel.yaml import YAML

from stages.__main__ import STAGES
from tests.conftest import PROJECT, Project

TEXT = (PROJECT / "dvc.yaml").read_text().replace("${data.name}", "cifar10")
PIPELINE: dict[str, Any] = YAML().load(TEXT)["stages"]
FILES = sorted((PROJECT / "stages").rglob("*.py"))
# They check, report and distribute: no result depends on them. The paths are dvc.yaml's own.
NO_DEPENDENCY = {
    f"stages/{name}.py" for name in ("__main__", "cluster", "params", "errors", "paths")
}


@cache
def imports(path: Path, for_types_too: bool = False) -> frozenset[str]:
    """Return the names of all modules that a file imports, `import_module("...")` included."""

    def names(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            if not for_types_too:
                return
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            name = getattr(node.args[0], "value", "")
            assert name or path.name == "__main__.py", f"{path} imports a computed name"
            yield str(name)
        for child in ast.iter_child_nodes(node):
            yield from names(child)

    return frozenset(names(ast.parse(path.read_text())))


def files(names: frozenset[str]) -> set[Path]:
    paths = {PROJECT / f"{name.replace('.', '/')}.py" for name in names}
    return {path for path in paths if path.exists()}


def all_code(stage: str) -> set[Path]:
    """Return the project's files that a stage imports, itself included, however indirectly."""
    found: set[Path] = set()
    queue = {PROJECT / f"stages/{stage}.py"}
    while queue:
        path = queue.pop()
        found.add(path)
        queue |= files(imports(path)) - found
    return found


def test_the_stages_are_those_of_main_in_its_order() -> None:
    assert list(PIPELINE) == list(STAGES)
    for name, stage in PIPELINE.items():
        assert stage["cmd"] == f"python3 -m stages {name}"


@pytest.mark.parametrize("stage", STAGES)
def test_deps_cover_all_code_that_a_stage_imports(stage: str) -> None:
    deps = PIPELINE[stage]["deps"]
    code = all_code(stage)
    needed = {str(path.relative_to(PROJECT)) for path in code}
    if any({"keras", "tensorflow"} & imports(path) for path in code):
        needed |= {"stages/__init__.py", "requirements.txt"}
    needed -= NO_DEPENDENCY
    assert {f for f in needed if not any(f == dep or f.startswith(f"{dep}/") for dep in deps)} == (
        set()
    )
    made = [out for other in PIPELINE.values() for out in outs(other)]
    assert [dep for dep in deps if dep not in made and not (PROJECT / dep).exists()] == []


def outs(stage: dict[str, Any]) -> set[str]:
    entries = stage.get("outs", []) + stage.get("metrics", [])
    return {name for entry in entries for name in ([entry] if isinstance(entry, str) else entry)}


@pytest.mark.parametrize("stage", STAGES)
def test_settings_that_a_stage_reads_are_its_params(stage: str) -> None:
    listed = PIPELINE[stage].get("params", [])
    source = (PROJECT / f"stages/{stage}.py").read_text()
    for section, key in re.findall(r"(?<![\w.])params\.(?!yaml)(\w+)(?:\.(\w+))?", source):
        if key:
            assert section in listed or f"{section}.{key}" in listed
        else:  # handed on, or read key by key
            assert any(name.partition(".")[0] == section for name in listed)


def test_every_setting_is_some_stages() -> None:
    listed = {name for stage in PIPELINE.values() for name in stage.get("params", [])}
    for section, keys in YAML().load(PROJECT / "params.yaml").items():
        assert section in listed or {f"{section}.{key}" for key in keys} <= listed


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_modules_import_only_what_they_may(path: Path) -> None:
    """Folders import neither a stage nor each other, and nothing imports what stands outside."""
    for file in files(imports(path, for_types_too=True)):
        name = str(file.relative_to(PROJECT))
        assert not name.startswith(("bench/", "tests/"))
        if path.parent.name in ("data", "nets", "training"):
            assert file.parent in (path.parent, PROJECT / "stages")
            assert file.stem not in STAGES
        elif path.name == "params.py":
            assert name == "stages/errors.py"


def test_imports_are_seen() -> None:
    """Else the tests above could not fail."""
    assert PROJECT / "stages/nets/cut.py" in all_code("fine_tune")  # by way of nets/backbone
    module = PROJECT / "stages/data/activations.py"
    assert "stages.cluster.Cluster" in imports(module, for_types_too=True) - imports(module)


def test_files_are_in_the_form_that_dvc_writes(fresh: Project, tmp_path: Path) -> None:
    """Else `dvc freeze`, `dvc exp run -S` and the like change more than they should."""
    project = fresh.copy(tmp_path)
    for stage in ("backbone", "report", "gate"):  # it refuses those with a name to fill in
        for command in ("freeze", "unfreeze"):
            assert project.dvc(command, stage).returncode == 0
    text = (PROJECT / "dvc.yaml").read_text()
    assert (project.folder / "dvc.yaml").read_text() == text
    stages = loads_yaml(text)["stages"].values()
    lists = [stage[key] for stage in stages for key in ("deps", "params") if key in stage]
    assert all(entries == sorted(entries) for entries in lists)
    copy = tmp_path / "params.yaml"
    copy.write_text((PROJECT / "params.yaml").read_text())
    with modify_yaml(copy):
        pass
    assert copy.read_text() == (PROJECT / "params.yaml").read_text()


@pytest.mark.parametrize(
    "setting",  # values that params.yaml is unlikely to have already
    ["train_head.epochs=37", "gate.minimum=0.543", "backbone.cut=block_9_add"],
)
def test_an_experiment_changes_one_line_of_params_yaml(setting: str, tmp_path: Path) -> None:
    copy = tmp_path / "params.yaml"
    before = (PROJECT / "params.yaml").read_text()
    copy.write_text(before)
    apply_overrides(copy, [setting])
    pairs = zip(before.splitlines(), copy.read_text().splitlines(), strict=True)
    ((_, new),) = ((old, new) for old, new in pairs if old != new)
    name, _, value = setting.partition(".")[2].partition("=")
    assert new.startswith(f"  {name}: {value}")
