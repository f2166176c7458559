"""Training and measuring networks on timm's building blocks.

    config (flags, recipe) -> engine (session -> epoch -> update) -> run (the directory), with callbacks beside it
"""
