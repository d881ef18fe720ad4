"""dvc.yaml says the truth about the code: modules that stages import, parameters that they read."""

import ast
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.transfer import params, paths
from stages.transfer.launcher import STAGES
from tests.conftest import PROJECT

PIPELINE: dict[str, Any] = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"]
LEAVES = {
    key
    for key in params.key_names()
    if not any(other.startswith(f"{key}.") for other in params.key_names())
}
COMPUTING = ("backbone", "preprocess", "features", "train_head", "fine_tune", "evaluate")


def imports(path: Path) -> set[Path]:
    """Return the project's files that a file imports directly, `import_module("...")` included."""

    class Visitor(ast.NodeVisitor):
        def __init__(self) -> None:
            self.names: set[str] = set()

        def visit_If(self, node: ast.If) -> None:
            # What only the type checker imports changes no result.
            if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
                self.generic_visit(node)

        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            # 0-transfer.py is imported for preprocess_data; its main is the user's way in.
            if (path.name, node.name) != ("0-transfer.py", "main"):
                self.generic_visit(node)

        def visit_Import(self, node: ast.Import) -> None:
            self.names |= {alias.name for alias in node.names}

        def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
            assert node.module
            assert node.level == 0
            self.names |= {node.module} | {f"{node.module}.{a.name}" for a in node.names}

        def visit_Call(self, node: ast.Call) -> None:
            function = node.func
            name = (
                function.attr
                if isinstance(function, ast.Attribute)
                else getattr(function, "id", "")
            )
            if name in ("import_module", "__import__"):
                assert isinstance(node.args[0], ast.Constant), f"{path}: import of a computed name"
                self.names.add(str(node.args[0].value))
            self.generic_visit(node)

    visitor = Visitor()
    visitor.visit(ast.parse(path.read_text()))
    files = {PROJECT / f"{name.replace('.', '/')}.py" for name in visitor.names}
    return {file for file in files if file.exists()}


@cache
def all_imports(path: Path) -> frozenset[Path]:
    found, queue = {path}, [path]
    while queue:
        for file in imports(queue.pop()) - found:
            found.add(file)
            queue.append(file)
    return frozenset(found)


def code_of(stage: str) -> set[str]:
    files = all_imports(PROJECT / f"stages/{stage}.py")
    return {str(file.relative_to(PROJECT)) for file in files}


def expand(keys: set[str]) -> set[str]:
    """Return the leaves of the schema that keys, sections among them, stand for."""
    for key in keys:
        assert key in params.key_names(), f"{key} is no parameter"
    return {leaf for leaf in LEAVES for key in keys if leaf == key or leaf.startswith(f"{key}.")}


def read_params(source: str) -> set[str]:
    """Return the keys that a stage's module reads: chains on `params`, and on names of sections."""
    tree = ast.parse(source)
    sections = {"params": ""}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            key = chain(node.value, {"params": ""})
            if key is not None:
                sections[node.targets[0].id] = key
    keys = set()
    inner = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and id(node) not in inner:
            key = chain(node, sections)
            if key is not None:
                keys.add(key)
                inner |= {id(child) for child in ast.walk(node) if child is not node}
        # It takes what dvc.yaml lists, and no more.
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "fingerprint":
            inner |= {id(child) for child in ast.walk(node) if child is not node}
    named = set(sections.values()) - LEAVES
    for name in (n for n in ast.walk(tree) if isinstance(n, ast.Name) and id(n) not in inner):
        if isinstance(name.ctx, ast.Load) and sections.get(name.id) in named:
            raise AssertionError(f"line {name.lineno}: a whole section is handed on; read its keys")
    return keys - named


def chain(node: ast.expr, sections: dict[str, str]) -> str | None:
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    if not names or not isinstance(node, ast.Name) or node.id not in sections:
        return None
    base = sections[node.id]
    return ".".join([base, *names] if base else names)


def test_the_stages_are_those_of_the_launcher_in_its_order() -> None:
    assert list(PIPELINE) == list(STAGES)
    for name, stage in PIPELINE.items():
        assert stage["cmd"] == f"python3 -m stages {name}"


@pytest.mark.parametrize("stage", STAGES)
def test_deps_hold_every_module_that_the_stage_imports(stage: str) -> None:
    deps = {dep for dep in PIPELINE[stage]["deps"] if dep.endswith(".py")}
    assert deps == code_of(stage)


@pytest.mark.parametrize("stage", STAGES)
def test_data_deps_and_outs_are_the_paths_that_the_stage_names(stage: str) -> None:
    tree = ast.parse((PROJECT / f"stages/{stage}.py").read_text())
    named = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "stages.transfer.paths"
        for alias in node.names
    }
    folders = {"train_view": paths.FEATURES, "dev_features": paths.FEATURES}
    used = {str(folders.get(name) or getattr(paths, name)) for name in named}
    spec = PIPELINE[stage]
    deps = {dep for dep in spec["deps"] if not dep.endswith((".py", "requirements.txt"))}
    outs = set(spec.get("outs", [])) | {m for d in spec.get("metrics", []) for m in d}
    assert deps | outs == used
    assert not deps & outs


@pytest.mark.parametrize("stage", STAGES)
def test_params_are_those_that_the_stage_reads(stage: str) -> None:
    source = (PROJECT / f"stages/{stage}.py").read_text()
    assert read_params(source) == expand(set(PIPELINE[stage]["params"]))


@pytest.mark.parametrize("stage", STAGES)
def test_the_runtime_lock_is_a_dependency_of_what_computes(stage: str) -> None:
    assert ("requirements.txt" in PIPELINE[stage]["deps"]) == (stage in COMPUTING)


def test_every_parameter_is_some_stages() -> None:
    listed = {key for stage in PIPELINE.values() for key in stage["params"]}
    assert expand(listed) == LEAVES


def test_the_readers_above_see_what_they_should(tmp_path: Path) -> None:
    source = """
def main(params):
    own = params.fine_tune
    size = params.backbone.image_size
    use(own.epochs, size, params.features.views)
"""
    assert read_params(source) == {
        "fine_tune.epochs",
        "backbone.image_size",
        "features.views",
    }
    with pytest.raises(AssertionError, match="whole section"):
        read_params("def main(params):\n    own = params.gate\n    use(own)\n")
    probe = tmp_path / "probe.py"
    probe.write_text(
        "from stages.transfer import cuts\n"
        "import stages.gate\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from stages.transfer import params\n"
        "import importlib\nimportlib.import_module('0-transfer')\n"
    )
    assert {str(f.relative_to(PROJECT)) for f in imports(probe)} == {
        "0-transfer.py",
        "stages/gate.py",
        "stages/transfer/cuts.py",
    }


def test_package_files_hold_no_code() -> None:
    for path in (PROJECT / "stages").rglob("__init__.py"):
        assert len(ast.parse(path.read_text()).body) == 1, f"{path} is nobody's dependency"
