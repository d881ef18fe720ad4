"""Stage 9: fail unless the measured accuracy reaches the gate."""

import json

from stages.errors import PipelineError
from stages.params import Params
from stages.paths import METRICS


def main(params: Params) -> None:
    """Compare val_accuracy in metrics.json with gate.minimum; raise unless it passes."""
    try:
        measured = json.loads(METRICS.read_text(encoding="utf-8"))["val_accuracy"]
        if isinstance(measured, bool) or not 0 <= measured <= 1:  # NaN too
            raise ValueError(f"val_accuracy is {measured!r:.80}")
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise PipelineError(
            f"gate: FAILED, {METRICS}: expected val_accuracy, a number from 0 to 1, got "
            f"{error!r:.200}; run `dvc repro evaluate`"
        ) from error
    minimum = params.gate.minimum
    if not measured >= minimum:
        raise PipelineError(
            f"gate: FAILED, val_accuracy {measured:.4f} is below gate.minimum {minimum}"
        )
    print(f"gate: passed, val_accuracy {measured:.4f} reaches gate.minimum {minimum}")
