"""The recipe: optimizer, learning-rate schedule and loss.

AdamW, which is Adam with decoupled weight decay (Loshchilov & Hutter 2019,
https://arxiv.org/abs/1711.05101), or Muon (Jordan et al. 2024,
https://kellerjordan.github.io/posts/muon/); a learning rate with linear decay to zero
(Defazio et al. 2023, https://arxiv.org/abs/2310.07831), smoothed labels (Szegedy et al. 2016,
https://arxiv.org/abs/1512.00567).
"""

import keras
import tensorflow as tf


def optimizer(
    learning_rate: float,
    steps: int,
    weight_decay: float = 0.0,
    name: str = "adamw",
) -> keras.optimizers.Optimizer:
    """Return an optimizer for a run of `steps`; biases and normalization are not decayed.

    No warmup: the network is trained already.
    """
    rate = keras.optimizers.schedules.PolynomialDecay(
        learning_rate, max(1, steps), end_learning_rate=0.0
    )
    if name == "muon":
        # beta_2: averages over about 100 steps, a fraction of an epoch (Keras: 0.999, 1000 steps).
        made = Muon(rate, weight_decay=weight_decay, beta_2=0.99)
    else:
        made = keras.optimizers.AdamW(rate, weight_decay=weight_decay)
    made.exclude_from_weight_decay(var_names=["bias", "beta", "gamma"])
    return made


class Muon(keras.optimizers.AdamW):
    """Muon for pointwise convolutions, whose kernels (1, 1, in, out) are matrices; else AdamW.

    The step is the momentum, with Nesterov's correction, made orthogonal by five Newton-Schulz
    iterations. It is scaled to the size of AdamW's, so that both have one learning rate (Liu et al.
    2025, https://arxiv.org/abs/2502.16982, section 2.2). Keras's own Muon takes matrices only.
    """

    MOMENTUM = 0.95

    def build(self, variables: list[keras.Variable]) -> None:
        """Create the state of both."""
        if not self.built:
            super().build(variables)
            self.momenta = {
                v.value.ref(): self.add_variable_from_reference(v, "muon")
                for v in variables
                # A last dimension of 1: a depthwise kernel that scales each channel, a vector.
                if tuple(v.shape[:2]) == (1, 1) and v.shape[-1] > 1
            }

    def update_step(
        self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor
    ) -> None:
        """Update one variable."""
        momentum = self.momenta.get(variable.ref())
        if momentum is None:
            super().update_step(gradient, variable, learning_rate)
            return
        self.assign_add(momentum, gradient + momentum * (self.MOMENTUM - 1))
        matrix = orthogonal(keras.ops.squeeze(gradient + self.MOMENTUM * momentum, (0, 1)))
        step = matrix * 0.2 * max(matrix.shape) ** 0.5
        self.assign_sub(variable, learning_rate * keras.ops.expand_dims(step, (0, 1)))


def orthogonal(x: tf.Tensor) -> tf.Tensor:
    """Orthogonalize (n, m) approximately: singular values 0.7 to 1.2.

    The iteration and its constants are those of Jordan et al.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = x.shape[0] <= x.shape[1]
    x = x if wide else keras.ops.transpose(x)
    x = x / (keras.ops.norm(x) + 1e-7)
    for _ in range(5):
        square = x @ keras.ops.transpose(x)
        x = a * x + (b * square + c * square @ square) @ x
    return x if wide else keras.ops.transpose(x)


def loss(label_smoothing: float = 0.0) -> keras.losses.Loss:
    """Return cross-entropy of logits against one-hot labels."""
    return keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing)
