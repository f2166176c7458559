"""The model card: facts -> sections -> card; ``mark`` tells a card that we wrote from one that was edited."""
