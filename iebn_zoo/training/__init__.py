"""Training and measuring networks on timm's building blocks.

    config (flags, recipe) -> engine (plan -> build -> run -> epoch -> update) -> run (the directory)

Callbacks stand beside the engine.
"""
