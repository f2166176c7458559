"""What IEBN costs on a GPU: ``iebn-zoo benchmark --gpu``, and everything about a GPU at once: ``make gpu``.

    flags -> parts (jobs with time limits, the most important first) -> pool -> worker processes -> rows -> CSV, chart

Each job runs in a process of its own, because an error of a GPU leaves no working process behind. ``check`` runs the
comparison in float64, the GPU tests, this table and an epoch of training.
"""
