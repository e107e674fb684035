"""What an insider says of people: who somebody is, that they agree, that they disagree, that all of it is forgotten."""

from __future__ import annotations

from datetime import timedelta

from tests.services.consent.insider.play import Insider, move
from tests.services.consent.insider.world import EVERYTHING
from w2w_registry.records import now
from w2w_registry.services.consent import amendments, grants, resolve, subjects, withdraw
from w2w_registry.services.consent.protect import protect_subject
from w2w_registry.services.identities.assigning import assign
from w2w_registry.services.recording.policies import adopt


@move("consent grant", "consent request", weight=1)
def agreed(insider: Insider) -> None:
    subject = insider.one([*insider.subjects, "bob", "carol"])
    subject = subject.upper() if insider.rng.random() < 0.2 else subject
    if insider.rng.random() < 0.3:
        grants.request(insider.registry, subject, EVERYTHING)
        return
    evidence = insider.form() if insider.rng.random() < 0.15 else None
    grants.grant(insider.registry, subject, EVERYTHING, evidence=evidence)


@move("consent renew", "consent narrow", "consent receipt", weight=0.7)
def renewed(insider: Insider) -> None:
    amendments.renew(insider.registry, insider.one(insider.subjects), now() + timedelta(days=400))


@move("consent dispute", "consent resolve", "consent invalidate", weight=0.7)
def disputed(insider: Insider) -> None:
    subject = insider.one([*insider.subjects, "bob"])
    how = int(insider.rng.integers(3))
    if how == 0:
        amendments.dispute(insider.registry, subject)
    elif how == 1:
        amendments.resolve(insider.registry, subject, upheld=True)
    elif insider.rng.random() < 0.2:
        withdraw.invalidate(insider.registry, subject)


@move("consent withdraw", weight=0.4)
def forgotten(insider: Insider) -> None:
    """Withdrawn in somebody's name, so that nothing of them is kept."""
    subject = insider.one([*insider.subjects, "bob"])
    withdraw.withdraw(insider.registry, subject, erase=True, protect=False)


@move("subject add", "subject assign", weight=1)
def assigned(insider: Insider) -> None:
    subject = insider.one([*insider.subjects, "bob", "dora"])
    if insider.rng.random() < 0.3:
        subjects.add_subject(insider.registry, subject.upper())
    assign(insider.registry, subject, [insider.name()], evidence=insider.form())


@move("subject protect", weight=0.2)
def protected(insider: Insider) -> None:
    """A stranger is protected in somebody's name."""
    strangers = [path for path, what in insider.files if what.startswith("p1")]
    protect_subject(insider.registry, insider.one(insider.subjects), str(strangers[int(insider.rng.integers(4))]))


@move("resolve", weight=2)
def resolved(insider: Insider) -> None:
    """What is held is decided about by whoever brought it in."""
    held = [one["version"] for one in resolve.held_versions(insider.registry)]
    name = insider.one(held) if held and insider.rng.random() < 0.8 else insider.name()
    if insider.rng.random() < 0.7:
        resolve.resolve(insider.registry, name, distinct=True, reason="somebody else")
    else:
        resolve.resolve(insider.registry, name, same_as=insider.name(), reason="the same")


@move("policy set", weight=0.7)
def loosened(insider: Insider) -> None:
    """Whatever allows more, typed or from a file of another folder."""
    items = ["likeness_kinds=[]", "space_people=2", 'unknown=["export","publish","mix"]', "second_person=false"]
    if insider.rng.random() < 0.5:
        adopt(insider.registry, items=[insider.one(items)])
        return
    file = insider.folder / insider.fresh("policy") / "registry.toml"
    file.parent.mkdir()
    file.write_text("[policy]\n" + "\n".join(items) + "\n")
    adopt(insider.registry, file)


@move("config set", "config unset", weight=0.5)
def without_base_model(insider: Insider) -> None:
    """For a few steps nobody can say what an adapter draws."""
    insider.blind = int(insider.rng.integers(2, 8))


@move(weight=0.5)
def clock(insider: Insider) -> None:
    """Set the clock, forward or back."""
    insider.clock = timedelta(hours=float(insider.rng.uniform(-24 * 400, 24 * 400)))
