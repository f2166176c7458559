"""The flags, their limits and types, the recipe, and what the flags name: images, network, loss, optimizer."""
