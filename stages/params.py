"""The schema of params.yaml: every key, its type, its range. Checked whole before any work."""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from dvc.utils.serialize import loads_yaml
from pydantic import AfterValidator, BeforeValidator, Field

from stages.errors import PipelineError, reason
from stages.nets.applications import APPLICATIONS

PARAMS = Path("params.yaml")
DVC_YAML = Path("dvc.yaml")


def _known_application(name: str) -> str:
    if name not in APPLICATIONS:
        near = difflib.get_close_matches(name, APPLICATIONS, 3, cutoff=0.0)
        raise ValueError(
            "expected an application in keras.applications (`make backbones` lists them); nearest: "
            + ", ".join(near)
        )
    return name


def _cut(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError("expected none, all, the name of a cut point, or a fraction in [0, 1]")
    return float(value)


Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Share = Annotated[Number, Field(ge=0, lt=1)]
Rate = Annotated[Number, Field(gt=0, le=1)]
Count = Annotated[int, Field(strict=True, ge=1, lt=2**31)]
CountOrZero = Annotated[int, Field(strict=True, ge=0, lt=2**31)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**32)]


class _Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class Download(_Section):
    """Which archive is accepted."""

    sha256: Annotated[dict[str, Digest], Field(min_length=1)]


class Backbone(_Section):
    """Which net, how much of it, its weights, and where it is cut."""

    name: Annotated[str, AfterValidator(_known_application)]
    image_size: Annotated[int, Field(strict=True, le=1024)]
    weights: Annotated[str, Field(min_length=1)]
    sha256: dict[str, Digest]
    last_layer: Annotated[str, Field(min_length=1)]
    cut: Annotated[str | float, BeforeValidator(_cut)]

    @pydantic.field_validator("image_size")
    @classmethod
    def _large_enough(cls, image_size: int, info: pydantic.ValidationInfo) -> int:
        name = info.data.get("name")
        if name and image_size < APPLICATIONS[name].minimum_size:
            raise ValueError(f"expected {APPLICATIONS[name].minimum_size} or more for {name}")
        return image_size


class Preprocess(_Section):
    """How the training images are divided."""

    dev_fraction: Annotated[Number, Field(gt=0, lt=1)]
    seed: Seed


class Features(_Section):
    """Which views of the training images go through the frozen prefix."""

    views: Annotated[int, Field(strict=True, ge=1, le=64)]
    shift: Annotated[int, Field(strict=True, ge=0, le=16)]
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
    weight_decay: Share
    label_smoothing: Share
    cutmix_share: Annotated[Number, Field(ge=0, le=1)]
    batch_norm: Literal["frozen", "adapting"]
    batch_norm_momentum: Share
    test_time_flip: Annotated[bool, Field(strict=True)]
    seed: Seed


class Evaluate(_Section):
    """How the saved model is measured."""

    batch_size: Count


class Gate(_Section):
    """What the saved model has to reach."""

    minimum: Annotated[Number, Field(ge=0, le=1)]


class Params(_Section):
    """The whole of params.yaml: a section for each stage."""

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
        # As DVC reads it: 010 is ten, and no key may stand twice. YAML 1.1 has eight there.
        content = loads_yaml(path.read_text(encoding="utf-8"))
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
    """Return what dvc.yaml, in the current folder, says of a stage."""
    return loads_yaml(DVC_YAML.read_text(encoding="utf-8"))["stages"][stage]


def of_stage(stage: str, params: Params) -> dict[str, Any]:
    """Return those settings that dvc.yaml names for a stage, by the names that stand there."""
    values = {}
    for name in definition(stage).get("params", []):
        section, _, key = name.partition(".")
        values[name] = params.model_dump()[section]
        if key:
            values[name] = values[name][key]
    return values


def _explained(fault: Any) -> str:
    """Say in a few words what pydantic has found wrong with a key."""
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
