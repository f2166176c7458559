"""The check before the clock: a wrong operator has no speed."""
