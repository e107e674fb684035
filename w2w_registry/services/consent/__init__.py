"""Consent: subjects and what they granted, the gate every use of a likeness passes, the guard that knows whoever must
not come back, and withdrawal carried through. The rules themselves are pure, in ``w2w_registry.consent``."""
