"""Where images come from, and how they and their activations are stored."""
