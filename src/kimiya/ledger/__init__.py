"""What every call cost: kept durably off the request's path, bounded by budgets, reported.

::

    pipeline -- settle(record) --> Spool (append-only file, survives kill -9)
                                     |  a background task, in batches
                                     v
                                   LedgerStore (SQLite, or PostgreSQL for replicas) --> reports

``Ledger`` joins the two; ``Budgets`` reserves before a call and settles after it; ``RateLimits``
holds a key to its requests and tokens a minute. Nothing here knows the pipeline.
"""
