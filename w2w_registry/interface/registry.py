"""The registry as a Python object: ``with w2w_registry.open(home) as reg: reg.search("acme/alice")``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from w2w_registry.interface.consent import Consent
from w2w_registry.interface.results import Pictures, Row, Rows, checked, plain
from w2w_registry.interface.spaces import Spaces
from w2w_registry.services.registry import Progress, init_registry, no_progress, open_registry
from w2w_registry.settings import load_settings


class Registry:
    """An open registry. Methods are named like the commands, and their results have the keys of ``--json``. Options are
    named like those of the commands (``min_distance``), in the plural where a command takes several (``subjects``);
    ``--no-X`` is ``X=False``.

    For errors that a user can fix, every method raises a subclass of :class:`w2w_registry.errors.RegistryError`:
    NotFound, UsageError, ConsentDenied…; nothing is half-written then.

    Attributes:
        consent: what subjects granted, and withdrawal (:class:`Consent`).
        spaces: the weight spaces (:class:`Spaces`).
    """

    def __init__(
        self,
        home: str | Path | None = None,
        *,
        database: str | None = None,
        actor: str | None = None,
        create: bool = False,
        progress: Progress = no_progress,
    ) -> None:
        settings = load_settings(home, database, actor=actor)
        if create:
            init_registry(settings)
        self._stack = ExitStack()
        self._registry = self._stack.enter_context(open_registry(settings))
        self._progress = progress
        self.consent = Consent(self._registry)
        self.spaces = Spaces(self._registry, progress)

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Registry({str(self._registry.settings.home)!r})"

    def close(self) -> None:
        """Close every connection. The registry cannot be used afterwards."""
        self._stack.close()

    # -- who is there -----------------------------------------------------------------------------
    def add(self, *paths: str | Path, **options: Any) -> Rows:
        """Add LoRA files, folders or globs as identities; one row per file, with ``status`` and ``warnings``.

        Each is placed in the space that ``space`` names, else in one that fits, or, if none does, registered as a plain
        file. No space is fitted. ``space`` and ``skipped`` (path and reason of each file skipped) are attributes of
        the result.

        Args:
            options: ``space``, ``name``, ``prefix``, ``kind``, ``subjects``, ``labels``, ``labels_csv``,
                ``base_model``, ``dry_run``, as for ``w2w-reg add``.

        Raises:
            NotFound: no such space. ConsentDenied: a subject does not allow it.
        """
        from w2w_registry.services.identities import ingest, intake
        from w2w_registry.services.identities.items import AddRequest

        request = AddRequest(paths=[str(path) for path in paths], **checked("add", AddRequest, options, own=["paths"]))
        passed: list[dict[str, str]] = []
        if request.space is not None or request.dry_run:
            done = ingest.add(self._registry, request, self._progress)
            items, space = done.items, done.space
        else:
            planned = intake.plan(self._registry, intake.survey(request), fit=False)
            taken = intake.perform(self._registry, request, planned, self._progress)
            items = taken.items
            passed = [{"path": str(one.path), "reason": one.reason} for one in taken.skipped]
            space = taken.spaces[0] if len(taken.spaces) == 1 else None
        rows = [{**item.to_json(), "error": item.error} for item in items]
        return Rows(rows, {"space": space, "skipped": passed})

    def search(
        self,
        query: str | Path,
        *,
        limit: int = 10,
        space: str | None = None,
        where: str | None = None,
        include_blocked: bool = False,
        exact: bool = False,
        certified: bool = False,
        fast: bool = False,
        by: Literal["weights", "behaviour", "both"] | None = None,
        pipeline: str | None = None,
        device: str = "auto",
    ) -> Rows:
        """The ``limit`` identities nearest to a registered name, a LoRA file or folder, or ``hf://owner/repo``.

        ``by`` compares weights, behaviour (what each makes the base model draw) or both; None means the best available,
        as for ``w2w-reg search``. ``pipeline`` is the base model's folder or Hub id.

        In a large registry ``exact`` compares with everyone, ``certified`` proves that nobody else reaches the
        threshold, and ``fast`` misses about three matches in a hundred. The rows have ``identity``, ``version``,
        ``score``…; ``threshold``, ``space``, ``certainty`` and ``warnings`` are attributes of the result.

        Raises:
            NotFound: neither a name nor a path. ConsentDenied: the subject does not allow being searched for.
        """
        from w2w_registry.services.hub.resolving import as_query
        from w2w_registry.services.recording.fingerprints import opener_for
        from w2w_registry.services.search.draws import search_by

        (found,) = search_by(
            self._registry,
            [as_query(self._registry, str(query))],
            by,
            opener=opener_for(self._registry, by, pipeline, device),
            limit=limit,
            space=space,
            where=where,
            include_blocked=include_blocked,
            exact=exact,
            certified=certified,
            fast=fast,
        )
        value = found.to_json()
        return Rows(value.pop("results"), value)

    def list(
        self,
        where: str | None = None,
        *,
        names: Sequence[str] = (),
        sort: str = "name",
        limit: int | None = None,
        at: str | None = None,
    ) -> Rows:
        """The newest version of each identity that matches ``where``, as in ``list("beard > 0.5", sort="label.age")``.

        Args:
            names: parts of names or patterns, as in ``["acme/*"]``; only identities that match one of them.
            sort: as for ``w2w-reg list``.
            at: a date or time; what was there then.

        Raises:
            WhereError: the expression does not parse. UsageError: nothing to sort by, or ``at`` is no date.
        """
        from w2w_registry.services.identities.browsing import browse

        return Rows(plain(browse(self._registry, names, where=where, sort=sort, limit=limit, at=at)))

    def show(self, name: str) -> Row:
        """One version of an identity, with everything known about it.

        Raises:
            NotFound: no such identity, version or alias.
        """
        from w2w_registry.services.identities import manage

        return Row(plain(manage.show(self._registry, name)))

    def history(self, name: str, *, at: str | None = None) -> Rows:
        """Which version each alias of an identity pointed to, and when."""
        from w2w_registry.services.identities import manage

        return Rows(plain(manage.history(self._registry, name, at=at)))

    def remove(self, name: str, *, dry_run: bool = False) -> Row:
        """Take an identity, or one version of it, out of service. ``dry_run`` only gives the plan."""
        from w2w_registry.services.identities import manage

        return Row(plain(manage.remove(self._registry, name, perform=not dry_run)))

    def alias(self, alias: str, target: str) -> Row:
        """Point ``alias`` to the version ``target``, as in ``alias("production", "acme/alice@3")``."""
        from w2w_registry.services.identities import manage

        return Row(plain(manage.set_alias(self._registry, alias, target)))

    def tag(self, name: str, **tags: str) -> Row:
        """Set tags of an identity: ``tag("acme/alice", team="ads")``."""
        from w2w_registry.services.identities import manage

        return Row(plain(manage.set_tags(self._registry, name, [f"{k}={v}" for k, v in tags.items()])))

    def lineage(self, name: str, *, down: bool = False, depth: int | None = None) -> Row:
        """What a version was made from (with ``down``, what was made from it), with the operations in between."""
        from w2w_registry.services.provenance import lineage as service

        return Row(plain(service.traced(self._registry, name, down=down, depth=depth)))

    # -- make more --------------------------------------------------------------------------------
    def train(self, *photos: str | Path, **options: Any) -> Row:
        """Train DreamBooth LoRAs from photos, a folder of photos, or a folder of such folders. Needs torch.

        Args:
            options: those of ``w2w-reg train``, and ``pipeline``, ``device``, ``dtype``.
        """
        from w2w_registry.services.synthesis import train as service

        request = service.TrainRequest(
            photos=[str(p) for p in photos], **_with_engine("train", service.TrainRequest, options, "photos")
        )
        return Row(plain(service.train(self._registry, request, self._progress)))

    def invert(self, *photos: str | Path, **options: Any) -> Rows:
        """Find the coordinates of the identity in each photo, and register them. Needs torch.

        Args:
            options: those of ``w2w-reg invert``, and ``pipeline``, ``device``, ``dtype``.
        """
        from w2w_registry.services.synthesis import invert as service

        request = service.InvertRequest(
            photos=[str(p) for p in photos], **_with_engine("invert", service.InvertRequest, options, "photos")
        )
        return Rows(plain(service.invert(self._registry, request, self._progress)))

    def edit(
        self,
        name: str,
        amounts: str | Mapping[str, float | bool],
        *,
        new: str,
        keep: Sequence[str] = (),
        purpose: str | None = None,
    ) -> Row:
        """Move an identity along directions and register the result as ``new``.

        Args:
            amounts: ``{"beard": 1.5, "hat": True}`` or ``"beard=+1.5, hat=on"``, in standard deviations.
        """
        from w2w_registry.services.synthesis import edit as service

        moves = service.parse_amounts(amounts) if isinstance(amounts, str) else dict(amounts)
        return Row(plain(service.edit(self._registry, name, moves, name=new, keep=keep, purpose=purpose)))

    def mix(self, *names: str, weights: Sequence[float] = (), new: str, purpose: str | None = None) -> Row:
        """Mix identities: ``mix("alice", "bob", weights=[0.3], new="both")`` is 0.3 of alice and 0.7 of bob.

        The row's ``["from"]`` names them (``from`` is a Python keyword, so ``row.from`` is not possible).
        """
        from w2w_registry.services.synthesis import edit as service

        shares = service.mixing_weights(len(names), weights)
        return Row(plain(service.mix(self._registry, names, shares, name=new, purpose=purpose)))

    def sample(self, count: int = 1, **options: Any) -> Row:
        """Make new identities from the distribution of a space, and register them.

        Args:
            options: ``space``, ``name``, ``seed``, ``min_distance``, ``distribution``, ``kind``, ``purpose``.
        """
        from w2w_registry.services.synthesis import edit as service

        return Row(
            plain(service.sample(self._registry, count, **checked("sample", service.sample, options, own=["count"])))
        )

    def generate(self, name: str, out: str | Path, **options: Any) -> Pictures:
        """Draw an identity into the folder ``out``: a PNG per seed and a contact sheet. Needs torch.

        Args:
            options: ``prompt``, ``seeds``, ``edit``, ``keep``, ``guidance``…, and ``pipeline``, ``device``, ``dtype``.
        """
        from w2w_registry.services.synthesis import generate as service

        request = service.GenerateRequest(
            ref=name, out=str(out), **_with_engine("generate", service.GenerateRequest, options, "ref", "out")
        )
        return Pictures(plain(service.generate(self._registry, request, self._progress)))

    def export(self, name: str, out: str | Path, **options: Any) -> Row:
        """Write an identity as a LoRA that PEFT, diffusers or kohya's tools load, or as its coordinates.

        Args:
            options: ``format`` (peft, diffusers, kohya…, coordinates, original), ``dtype``, ``coordinates``,
                ``purpose``, ``force``.
        """
        from w2w_registry.services.synthesis import export as service

        options = checked("export", service.export, options, own=["ref", "out"])
        return Row(plain(service.export(self._registry, name, str(out), **options)))

    # -- trust ------------------------------------------------------------------------------------
    def verify_audit(self) -> Row:
        """Check the whole audit log against the catalog; ``ok`` says whether everything holds."""
        from w2w_registry.services.audit import log

        return Row(log.verify(self._registry).to_json())


def _with_engine(method: str, request: Callable[..., Any], options: Mapping[str, Any], *own: str) -> dict[str, Any]:
    """``options`` of a request, with ``pipeline``, ``device`` and ``dtype`` gathered into an engine.

    Raises:
        UsageError: an option that does not exist.
    """
    from w2w_registry.services.synthesis.engine import Engine

    rest = dict(options)
    engine = Engine(rest.pop("pipeline", None), rest.pop("device", "auto"), rest.pop("dtype", "auto"))
    return {**checked(method, request, rest, own=[*own, "engine"]), "engine": engine}
