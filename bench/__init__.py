"""What is measured of the pipeline from outside: plain scripts, `python -m bench.compare` say."""

import stages  # noqa: F401 - first: it sets what TensorFlow and Keras read from the environment
