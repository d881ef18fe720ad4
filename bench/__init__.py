"""Measurements of the pipeline from outside, plain scripts such as `python -m bench.compare`."""

import stages  # noqa: F401 - first: it sets what TensorFlow and Keras read from the environment
