"""A directory that is a Hub repository: config.json, weights, golden outputs, and the proof that they belong together.
"""
