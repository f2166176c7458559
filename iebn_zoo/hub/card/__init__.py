"""The model card: facts fill a template of hub_cards; ``mark`` tells a generated card from an edited one."""
