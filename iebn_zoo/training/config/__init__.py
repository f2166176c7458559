"""What a run is asked to do: the flags, their limits, the recipe, the images and the network that they name."""
