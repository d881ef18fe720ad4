"""The schema of params.yaml: every key, its type, its range; validated before any work."""

import difflib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BeforeValidator, Field
from ruamel.yaml import YAML

from stages.errors import PipelineError, reason

PARAMS = Path("params.yaml")
DVC_YAML = Path("dvc.yaml")


def _cut(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError("expected none, all, the name of a cut point, or a fraction in [0, 1]")
    return float(value)


Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Number = Annotated[float, Field(allow_inf_nan=False)]
Fraction = Annotated[Number, Field(ge=0, lt=1)]
Rate = Annotated[Number, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
CountOrZero = Annotated[int, Field(ge=0, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class _Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True, extra="forbid", frozen=True)


class Data(_Section):
    """Which images; all but the name is for images of one's own."""

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
    image_size: Annotated[int, Field(ge=1, le=1024)]
    aspect: Literal["crop", "pad"]


class Download(_Section):
    """Which archive is accepted."""

    sha256: Annotated[dict[str, Digest], Field(min_length=1)]


class Backbone(_Section):
    """Which net, how much of it, its weights, and where it is cut."""

    name: str
    image_size: Annotated[int, Field(ge=1, le=1024)]
    weights: Annotated[str, Field(min_length=1)]
    sha256: dict[str, Digest]
    last_layer: Annotated[str, Field(min_length=1)]
    cut: Annotated[str | float, BeforeValidator(_cut)]


class Preprocess(_Section):
    """How the images are divided."""

    test_fraction: Annotated[Number, Field(gt=0, lt=1)]
    dev_fraction: Annotated[Number, Field(gt=0, lt=1)]
    seed: Seed


class Features(_Section):
    """Which views of the training images go through the frozen prefix."""

    views: Annotated[int, Field(ge=1, le=64)]
    flip: bool
    shift: Fraction
    zoom: Fraction
    batch_size: Count
    seed: Seed


class TrainHead(_Section):
    """How the new head is trained, everything below it frozen."""

    epochs: CountOrZero
    images: Count
    batch_size: Count
    learning_rate: Rate
    seed: Seed


class FineTune(_Section):
    """How head and suffix are trained together."""

    epochs: CountOrZero
    batch_size: Count
    optimizer: Literal["adamw", "muon"]
    learning_rate: Rate
    weight_decay: Fraction
    label_smoothing: Fraction
    cutmix_fraction: Annotated[Number, Field(ge=0, le=1)]
    batch_norm: Literal["frozen", "adapting"]
    batch_norm_momentum: Fraction
    test_time_flip: bool
    seed: Seed


class Evaluate(_Section):
    """How the saved model is measured."""

    batch_size: Count


class Gate(_Section):
    """What the saved model has to reach."""

    minimum: Annotated[Number, Field(ge=0, le=1)]


class Params(_Section):
    """The whole of params.yaml: the data set, then a section for each stage."""

    data: Data
    download: Download
    backbone: Backbone
    preprocess: Preprocess
    features: Features
    train_head: TrainHead
    fine_tune: FineTune
    evaluate: Evaluate
    gate: Gate


def load(path: Path = PARAMS) -> Params:
    """Read and check params.yaml.

    Raises:
        PipelineError: the file is not YAML or breaks the schema; the message names each key at
            fault, its value and what is allowed.
        OSError: it cannot be read.
    """
    try:
        # YAML 1.2, as in DVC: 010 is 10 (8 in YAML 1.1); duplicate keys are errors.
        content = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except OSError:
        raise
    except Exception as error:  # of the scalars' constructors too: KeyError, IndexError, ...
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or reason(error)
        raise PipelineError(f"{path}: expected YAML: {problem}{where}") from error
    try:
        return Params.model_validate(content)
    except pydantic.ValidationError as error:
        faults = "; ".join(map(_explained, error.errors()))
        raise PipelineError(f"{path}: {faults}") from None


def definition(stage: str) -> dict[str, Any]:
    """Return a stage's definition in dvc.yaml, in the current folder."""
    return YAML(typ="safe").load(DVC_YAML.read_text(encoding="utf-8"))["stages"][stage]


def of_stage(stage: str, params: Params) -> dict[str, Any]:
    """Return the settings listed for a stage in dvc.yaml, keyed as there."""
    values = {}
    for name in definition(stage).get("params", []):
        section, _, key = name.partition(".")
        values[name] = params.model_dump()[section]
        if key:
            values[name] = values[name][key]
    return values


def dependencies(stage: str) -> list[Path]:
    """Return the files that a stage depends on, those in folders too."""
    files: list[Path] = []
    for path in map(Path, definition(stage)["deps"]):
        files += [path] if path.is_file() else sorted(path.glob("*.*"))
    return files


def fingerprint(stage: str, params: Params, environment: dict[str, Any]) -> str:
    """Return a fingerprint of a stage's settings, dependencies and environment, as text.

    Of dependencies size and mtime: they may be many gigabytes.
    """
    files = dependencies(stage)
    states = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return json.dumps([of_stage(stage, params), states, environment])


def _explained(fault: Any) -> str:
    """Return in a few words what pydantic has found wrong with a key."""
    key = ".".join(map(str, fault["loc"])) or "the file"
    message = fault["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    if fault["type"] == "missing":
        return f"missing key {key}"
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, _known_keys(), 1, cutoff=0.0)[0]
        return f"unknown key {key}; nearest: {near}"
    if fault["type"] == "model_type":
        return f"{key}: expected keys with their values"
    return f"{key} = {fault['input']!r:.80}: {message}"


def _known_keys() -> list[str]:
    sections: dict[str, Any] = {k: v.annotation for k, v in Params.model_fields.items()}
    return [f"{name}.{key}" for name, section in sections.items() for key in section.model_fields]
