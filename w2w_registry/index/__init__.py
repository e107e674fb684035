"""Vector indexes over coordinates: a cache of the catalog that answers "which identities are near this one?".

``protocol`` says what an index does and what keeps one, ``exact`` is the oracle, ``faiss_index`` and ``milvus`` scale
it, ``store`` keeps one in a folder. ``factory.engine_for`` picks the kind. An index never reads SQL: services hand it
rows.
"""
