"""Comparison of results: the same bits, or a reason why not and the accuracy within a tolerance."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from stages.transfer.bench.comparison import NONE
from stages.transfer.environment import Environment, differences
from stages.transfer.errors import PipelineError
from stages.transfer.launcher import STAGES
from stages.transfer.measures import METRIC, measured_accuracy

# Where rounding differs, training carries it on. One pair of runs that only rounded differently was
# 0.2 points apart; one standard error of an accuracy of 0.91 on 10,000 images is 0.29 points.
TOLERANCE = 0.01
COMPARED = tuple(stage for stage in STAGES if stage != "gate")  # it leaves nothing


class Result(NamedTuple):
    """What a run has left.

    Attributes:
        name: what it is called in a sentence.
        outputs: the digest of each output, by stage and path.
        inputs: of each stage, its parameters and the digests of its code, by name.
        environments: where each stage ran; a stage is missing if that is not known.
        accuracy: val_accuracy, in [0, 1]; None if it is not known.
    """

    name: str
    outputs: Mapping[str, Mapping[str, str]]
    inputs: Mapping[str, Mapping[str, Any]]
    environments: Mapping[str, Environment]
    accuracy: float | None


class Verdict(NamedTuple):
    """What a comparison has found: whether it is passed, and a sentence."""

    passed: bool
    text: str


def result(name: str, lock: Any, environments: Mapping[str, Environment], metrics: Any) -> Result:
    """Read what a run has left.

    Args:
        name: what it is called in a sentence.
        lock: the content of its dvc.lock.
        environments: where each stage ran.
        metrics: the content of its metrics.json.

    Raises:
        PipelineError: the lock is malformed, or a stage is missing from it.
    """
    outputs: dict[str, dict[str, str]] = {}
    inputs: dict[str, dict[str, Any]] = {}
    try:
        stages = {stage: lock["stages"][stage] for stage in COMPARED}
        for stage, own in stages.items():
            outputs[stage] = {out["path"]: str(out["md5"]) for out in own["outs"]}
            made = {path for of_stage in outputs.values() for path in of_stage}
            code = {dep["path"]: dep["md5"] for dep in own["deps"] if dep["path"] not in made}
            inputs[stage] = code | _flat(own["params"]["params.yaml"])
            for key in ("backbone.sha256", "backbone.weights"):
                inputs[stage].pop(key, None)  # the weights themselves are compared
    except (KeyError, TypeError) as error:
        raise PipelineError(
            f"{name}: expected every stage with its outputs, {error} is missing; "
            "run `make reproduce`, then commit dvc.lock"
        ) from None
    return Result(name, outputs, inputs, environments, measured_accuracy(metrics))


def compare(there: Result, here: Result) -> Verdict:
    """Compare two results: the same bits, or else a known reason and nearly the same accuracy.

    What differs first decides. It is excused by another environment of that stage or of one before
    it, if the accuracies are within `TOLERANCE`. It is not excused by other code or settings, nor
    by an environment that is not known.

    Args:
        there: the result to compare with.
        here: the result in question.
    """
    both = f"{there.name} and {here.name}"
    paths = {stage: _differing(there.outputs[stage], here.outputs[stage]) for stage in COMPARED}
    differing = [stage for stage in COMPARED if paths[stage]]
    if not differing:
        return Verdict(True, f"{both} are identical")
    first = differing[0]
    text = f"{both} differ from {first} on ({', '.join(paths[first])})"
    until = COMPARED[: COMPARED.index(first) + 1]
    if changed := _union(_differing(there.inputs[stage], here.inputs[stage]) for stage in until):
        return Verdict(False, f"{text}: they are of other settings or code, {', '.join(changed)}")
    for stage in until:
        for side in (there, here):
            if stage not in side.environments:
                return Verdict(False, f"{text}; where {side.name} ran {stage} is not recorded")
    reasons = _union(
        differences(there.environments[stage], here.environments[stage]) for stage in until
    )
    if not reasons:
        return Verdict(False, f"{text}, in the same environment")
    text += f", made in another environment ({'; '.join(reasons)})"
    if there.accuracy is None or here.accuracy is None:
        return Verdict(False, f"{text}; {METRIC} is missing")
    apart = round(abs(there.accuracy - here.accuracy), 6)
    text += f"; {METRIC} {there.accuracy:.4f} there, {here.accuracy:.4f} here, {apart:.4f} apart"
    within = apart <= TOLERANCE
    return Verdict(
        within, f"{text}, {'within' if within else 'beyond'} the tolerance of {TOLERANCE}"
    )


def of_another_archive(there: Result, here: Result) -> bool:
    """Return whether the same code under the same settings has taken another archive.

    More than one is accepted, and what follows from other bytes says nothing about
    reproducibility. `download` itself computes nothing that could round otherwise.
    """
    same = not _differing(there.inputs["download"], here.inputs["download"])
    return same and there.outputs["download"] != here.outputs["download"]


def table(first: Result, second: Result, committed: Result | None) -> list[list[str]]:
    """Return the digests of all outputs, a row for each, after a row of headings.

    Args:
        first: of the first run.
        second: of the second run.
        committed: what dvc.lock says, None if it is of other settings.
    """
    results = [first, second, *([committed] if committed else [])]
    rows = [["stage", "output", first.name, second.name, "dvc.lock", "verdict"]]
    for stage in COMPARED:
        for path in _union(each.outputs[stage] for each in results):
            found = [each.outputs[stage].get(path, NONE) for each in results]
            same = "identical" if found[0] == found[-1] else "not as in dvc.lock"
            verdict = same if found[0] == found[1] else "the runs differ"
            shown = [digest[:8] for digest in found] + [NONE] * (3 - len(found))
            rows.append([stage, path, *shown, verdict])
    return rows


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return a table as text, its columns aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Return the keys that have another value in b, or are in one of the two only."""
    return [key for key in _union((a, b)) if key not in a or key not in b or a[key] != b[key]]


def _flat(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters by their whole names: DVC records a section as one."""
    found: dict[str, Any] = {}
    for name, value in params.items():
        inner = value if isinstance(value, dict) else None
        found |= {f"{name}.{key}": each for key, each in inner.items()} if inner else {name: value}
    return found


def _union(names: Any) -> list[str]:
    """Return the elements of all, each once, in their order."""
    return list(dict.fromkeys(name for each in names for name in each))
