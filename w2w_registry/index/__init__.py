"""Vector indexes over coordinates: a cache of the catalog that answers "which identities are near this one?".

``protocol`` says what an index does, ``exact`` is the oracle, ``faiss_index`` and ``milvus`` scale it, ``store``
keeps one on disk. ``factory.open_index`` picks the kind. An index never reads SQL: services hand it rows.
"""
