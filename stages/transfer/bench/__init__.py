"""`make bench`: this pipeline, timed beside two other ways."""
