"""Training: recipe, batches, loop, checkpoint, CPU optimizations."""
