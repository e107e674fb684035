"""The SQL truth: models, transactions with their audit events, schema, queries. See ``session.Catalog``."""
