"""Training and measuring on timm's building blocks: arguments -> data -> loop -> state (the checkpoint) -> log."""
