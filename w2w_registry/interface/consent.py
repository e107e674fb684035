"""Consent through the Python API: ``reg.consent.grant("s-17", purposes=["research"])``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from w2w_registry.interface.results import Row, Rows, plain
from w2w_registry.services.registry import Registry as OpenRegistry


class Consent:
    """What subjects granted, whether it covers a use, and withdrawal."""

    def __init__(self, registry: OpenRegistry) -> None:
        self._registry = registry

    def grant(
        self,
        subject: str,
        *,
        purposes: Sequence[str],
        uses: Sequence[str] = (),
        forbidden: Sequence[str] = (),
        derivatives: bool = False,
        publication: bool = False,
        territory: Sequence[str] = (),
        expires: str | None = None,
        evidence: str | Path | None = None,
    ) -> Row:
        """Record a consent.

        Args:
            purposes: as in ``["research"]``; ``["any"]`` grants every purpose, derivatives included.
            uses: the uses allowed, as in ``["edit", "generate"]``; none given = all.
            expires: the last day of the term, as in ``"2027-12-31"``.
            evidence: a signed form or a recording; only its digest is kept.

        Raises:
            BadName, BadFile, UsageError.
        """
        from w2w_registry.services.consent import grants, scopes

        scope = scopes.build_scope(
            purposes,
            uses=uses,
            forbidden=forbidden,
            derivatives=derivatives,
            publication=publication,
            territory=territory,
            expires_at=scopes.parse_day(expires, end=True),
        )
        given = None if evidence is None else Path(evidence)
        return Row(plain(grants.grant(self._registry, subject, scope, evidence=given, method="Python API")))

    def show(self, subject: str) -> Row:
        """Every consent record of a subject, with their consent in one word."""
        from w2w_registry.services.consent import showing

        return Row(plain(showing.show(self._registry, subject)))

    def check(self, name: str, *, purpose: str | None = None, territory: str | None = None) -> Row:
        """Which uses of an identity the consent of everybody upstream allows, and why not the others."""
        from w2w_registry.services.consent import showing

        return Row(plain(showing.check(self._registry, name, purpose=purpose, territory=territory)))

    def withdraw(self, subject: str, *, erase: bool = False, protect: bool = True, dry_run: bool = False) -> Row:
        """Withdraw everything a subject ever granted, and act on it; ``dry_run`` only gives the plan."""
        from w2w_registry.services.consent import withdraw

        if dry_run:
            return Row(plain(withdraw.plan_withdrawal(self._registry, subject, erase=erase, protect=protect)))
        return Row(plain(withdraw.withdraw(self._registry, subject, erase=erase, protect=protect)))

    def subjects(self) -> Rows:
        """Every subject, with its consent in one word."""
        from w2w_registry.services.consent import subjects

        return Rows(plain(subjects.list_subjects(self._registry)))
