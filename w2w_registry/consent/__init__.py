"""Consent, pure: records and their lifecycle, the policy decision, the withdrawal plan, receipts, the guard."""
