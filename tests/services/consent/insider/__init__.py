"""An insider who tries to get somebody out who refused: random steps over everything a registry can do.

``python -m tests.services.consent.insider`` runs the campaign; ``test_insider_campaign`` a small sample of it.
"""
