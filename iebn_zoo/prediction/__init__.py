"""What a network says of images: classes with their probabilities, as Python values, tables and contact sheets."""
