"""The schema of params.yaml: every key, its type, its range. Checked whole before any work."""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pydantic
from dvc.utils.serialize import loads_yaml
from pydantic import AfterValidator, BeforeValidator, Field

from stages.transfer.applications import APPLICATIONS
from stages.transfer.errors import PipelineError

PARAMS = Path("params.yaml")


def _known_application(name: str) -> str:
    served = [known for known, application in APPLICATIONS.items() if not application.refused]
    if name not in APPLICATIONS:
        near = difflib.get_close_matches(name, served, 3, cutoff=0.0)
        raise ValueError(
            "expected an application in keras.applications (`make backbones` lists them); nearest: "
            + ", ".join(near)
        )
    if reason := APPLICATIONS[name].refused:
        raise ValueError(f"this pipeline does not serve it: {reason}")
    return name


def _number(value: Any) -> Any:
    """Read `1e-3` as the number it is (YAML 1.1 makes it a string), and a boolean as none."""
    if isinstance(value, bool):
        raise ValueError("expected a number")
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("expected a number") from None


def _cut(value: Any) -> Any:
    if isinstance(value, str):
        try:
            value = float(value)  # a share in quotes
        except ValueError:
            return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError("expected auto, none, all, the name of a cut point, or a share in [0, 1]")
    return float(value)


Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Share = Annotated[Number, Field(ge=0, lt=1)]
Rate = Annotated[Number, Field(gt=0, le=1)]
Count = Annotated[int, Field(strict=True, ge=1, lt=2**31)]
CountOrZero = Annotated[int, Field(strict=True, ge=0, lt=2**31)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**32)]


class _Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class Download(_Section):
    """Which archive is accepted."""

    sha256: Annotated[list[Digest], Field(min_length=1)]


class Backbone(_Section):
    """Which net, its weights, and where it is cut."""

    name: Annotated[str, AfterValidator(_known_application)]
    image_size: Annotated[int, Field(strict=True, le=1024)]
    weights: Annotated[str, Field(min_length=1)]
    sha256: list[Digest]
    cut: Annotated[str | float, BeforeValidator(_cut)]

    @pydantic.model_validator(mode="after")
    def _large_enough(self) -> Self:
        minimum = APPLICATIONS[self.name].minimum_size
        if self.image_size < minimum:
            raise ValueError(
                f"backbone.image_size = {self.image_size}: {self.name} needs at least {minimum}"
            )
        return self


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
    learning_rate: Rate
    warmup: Share
    weight_decay: Share
    label_smoothing: Share
    dropout: Share
    cutmix_share: Annotated[Number, Field(ge=0, le=1)]
    batch_norm: Literal["frozen", "adapting", "re-estimated"]
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


def parse(text: str) -> Any:
    """Return what YAML text says, as DVC reads it: 010 is ten, and no key may stand twice.

    YAML 1.1, which PyYAML reads, has eight there. Then dvc.lock would not say what was run.

    Raises:
        ValueError: it is no YAML; the message is one line.
    """
    try:
        return loads_yaml(text)
    except Exception as error:  # of the scalars' constructors too: KeyError, IndexError, ...
        problem = getattr(error, "problem", None) or str(error) or type(error).__name__
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise ValueError(f"{' '.join(problem.split()):.300}{where}") from error


def load(path: Path = PARAMS) -> Params:
    """Read and check params.yaml.

    Raises:
        PipelineError: the file cannot be read, is not YAML, or breaks the schema; the message
            names each key at fault, its value, what is allowed, and the nearest known key.
    """
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PipelineError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise PipelineError(f"{path}: expected YAML: {error}") from error
    try:
        return Params.model_validate(content)
    except pydantic.ValidationError as error:
        faults = "; ".join(_explain(fault) for fault in error.errors())
        raise PipelineError(f"{path}: {faults}") from None


def key_names(model: type[pydantic.BaseModel] = Params, prefix: str = "") -> list[str]:
    """Return every key of the schema, sections included, dotted as DVC writes them."""
    found = []
    for name, field in model.model_fields.items():
        found.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, pydantic.BaseModel):
            found += key_names(field.annotation, f"{prefix}{name}.")
    return found


def _explain(fault: Any) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, key_names(), 1, cutoff=0.0)[0]
        return f"unknown key {key}; nearest: {near}"
    if fault["type"] == "missing":
        return f"missing key {key}"
    message = fault["msg"].removeprefix("Value error, ")
    message = message.replace("Input should be", "expected")
    if fault["type"] == "string_pattern_mismatch":
        message = "expected 64 hexadecimal digits in lower case"
    if fault["type"] == "model_type":
        section: Any = Params.model_fields[key].annotation if key else Params
        message = f"expected {', '.join(section.model_fields)}, each with its value"
    if message.startswith(f"{key}."):  # a check of a whole section names its key itself
        return message
    try:
        got = f"{fault['input']!r:.80}"
    except ValueError:  # Python shows no number of more than 4,300 digits
        got = "a number of thousands of digits"
    return f"{key} = {got}: {message}" if key else message
