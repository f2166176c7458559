"""The commands of ``iebn-zoo``: a parser and a ``main`` each."""
