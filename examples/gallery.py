"""The gallery on the mini world: ``python -m examples.gallery OUT`` (what ``make gallery`` runs).

Makes the demo's registry unless OUT has one, adds what a gallery is for (directions for the sliders, fingerprints to
say who is who, two people who agreed, an edit and a mix of them, a model that waits for a decision), and serves it.
Fingerprints and drawing need torch; everything else does not. What was finished is not done again.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from examples import demo
from examples.demo import command, program


def main(out: Path) -> int:
    """Prepare OUT and serve its registry until interrupted; returns the exit code."""
    home, world = out / "registry", out / "world"
    if not (home / "catalog.db").exists():
        demo.main(out)
    if not (out / "gallery.ready").exists():
        prepare(home, world)
        (out / "gallery.ready").touch()
    serve = [str(program()), "--home", str(home), "serve", "--open", "--pipeline", str(world / "pipeline")]
    try:
        return subprocess.run([*serve, *sys.argv[2:]], check=False).returncode
    except KeyboardInterrupt:
        return 0


def prepare(home: Path, world: Path) -> None:
    """Directions, fingerprints, two people who agreed, and what was made of them."""
    command(home, "direction", "fit", "--all", "--replace")
    if find_spec("torch") is not None:
        pipeline = ("--pipeline", world / "pipeline")
        command(home, "fingerprint", "--all", *pipeline)
        command(home, "calibrate", "--repeats", world / "retrained", *pipeline)
    demo.attach_previews(world / "photos", world / "heldout")
    consent = ("--purpose", "research", "--derivatives", "--expires", "2027-12-31")
    for subject, lora, name in (("s-17", "p1000", "acme/alice"), ("s-18", "p1001", "acme/bob")):
        command(home, "consent", "grant", subject, *consent)
        command(home, "add", world / "heldout" / lora, "--name", name, "--subject", subject)
    command(home, "edit", "acme/alice", "--edit", "beard=on", "--name", "acme/alice-bearded")
    command(home, "mix", "acme/alice", "acme/bob", "--name", "acme/alice-and-bob")
    if find_spec("torch") is not None:
        made = ("acme/alice-bearded", "acme/alice-and-bob")
        command(home, "preview", "draw", *made, "--pipeline", world / "pipeline")
        hold_somebody(home, world)
    command(home, "alias", "set", "production", "acme/alice@1")
    command(home, "tag", "set", "acme/alice", "team=ads")


def hold_somebody(home: Path, world: Path) -> None:
    """A registered person's model comes again, from other photos and as somebody else's: it is held, and waits on the
    compliance desk for a second person."""
    form = world / "form.txt"
    form.write_text("I am the one whom p0007 shows.\n")
    demo.attach_previews(world / "photos-retrained", world / "retrained")
    for subject in ("s-19", "s-20"):
        command(home, "consent", "grant", subject, "--purpose", "research")
    command(home, "--actor", "steward", "subject", "assign", "s-19", "p0007", "--evidence", form)
    lora = ("add", world / "retrained" / "p0007", "--name", "visitor/portrait", "--subject", "s-20")
    command(home, "--actor", "visitor", *lora, "--pipeline", world / "pipeline")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo-out")))
