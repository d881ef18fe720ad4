"""The pipeline: one module for each stage, in the order of `dvc dag`; `transfer` is below them."""
