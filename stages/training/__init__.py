"""How it learns: recipe, batches, loop, checkpoint."""
