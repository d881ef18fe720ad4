"""The recipe: what the optimizer, its rate and the loss are. `fit` runs it.

AdamW, which is Adam with decoupled weight decay (Loshchilov & Hutter 2019,
https://arxiv.org/abs/1711.05101), or Muon (Jordan et al. 2024,
https://kellerjordan.github.io/posts/muon/); a learning rate with linear decay to zero
(Defazio et al. 2023, https://arxiv.org/abs/2310.07831), smoothed labels (Szegedy et al. 2016,
https://arxiv.org/abs/1512.00567).
"""

from typing import Literal

import keras


def optimizer(
    learning_rate: float,
    steps: int,
    weight_decay: float = 0.0,
    name: Literal["adamw", "muon"] = "adamw",
) -> keras.optimizers.Optimizer:
    """Return an optimizer for a run of `steps`; biases and normalisation are not decayed.

    It starts at the full learning rate: the net is trained already, and so is its new head.
    """
    rate = keras.optimizers.schedules.PolynomialDecay(
        learning_rate, max(1, steps), end_learning_rate=0.0
    )
    if name == "muon":
        made = Muon(
            rate,
            weight_decay=weight_decay,
            adam_weight_decay=weight_decay,
            adam_beta_2=0.99,  # a mean over some 100 steps, of the few hundred of an epoch
            rms_rate=None,  # `Muon` below scales its updates itself
        )
    else:
        made = keras.optimizers.AdamW(rate, weight_decay=weight_decay)
    made.exclude_from_weight_decay(var_names=["bias", "beta", "gamma"])
    return made


class Muon(keras.optimizers.Muon):
    """Keras's Muon for pointwise convolutions, whose kernels (1, 1, in, out) are matrices too.

    All else, the head too, is updated by AdamW. An update is scaled to the size of AdamW's, so that
    both have one learning rate (Liu et al. 2025, https://arxiv.org/abs/2502.16982, section 2.2).
    """

    def _should_use_adamw(self, variable: keras.Variable) -> bool:
        return tuple(variable.shape[:2]) != (1, 1)

    def zeropower_via_newtonschulz5(self, x: keras.KerasTensor, steps: int) -> keras.KerasTensor:
        """Return the nearest orthogonal matrix to (1, 1, in, out), in the same shape, scaled."""
        matrix = super().zeropower_via_newtonschulz5(keras.ops.squeeze(x, (0, 1)), steps)
        return keras.ops.expand_dims(matrix * 0.2 * max(matrix.shape) ** 0.5, (0, 1))


def loss(label_smoothing: float = 0.0) -> keras.losses.Loss:
    """Return cross-entropy of logits against one-hot labels."""
    return keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing)
