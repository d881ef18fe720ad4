"""Stage 8: fail unless the measured accuracy reaches the gate."""

from typing import TYPE_CHECKING

from stages.transfer.measures import verdict
from stages.transfer.paths import METRICS

if TYPE_CHECKING:
    from stages.transfer.params import Params


def main(params: "Params") -> None:
    """Print the verdict on metrics.json; raise PipelineError if it is not passed."""
    print(verdict(METRICS, params.gate.minimum))
