"""The folders of hub_cards: published networks and examples, their cards, and the table of all of them.

    python -m iebn_zoo.hub.published hub_cards                            # every card and the table anew
    python -m iebn_zoo.hub.published hub_cards --add RUN --tag TAG        # and a folder ARCHITECTURE.TAG more
"""
