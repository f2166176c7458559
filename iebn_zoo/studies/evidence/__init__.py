"""From the logs of finished runs to what the documents show, by three commands:

    python -m iebn_zoo.studies.evidence.results scripts/benchmarks hub_cards     # one table of all runs
    python -m iebn_zoo.studies.evidence.pictures scripts/benchmarks
    python -m iebn_zoo.studies.evidence.documents scripts/benchmarks             # the tables in documents
"""
