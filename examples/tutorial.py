"""The whole loop in one go, on the mini world: from a folder of LoRAs to new identities and back out as files.

``python examples/tutorial.py OUT [--loras N]`` unpacks the mini world into OUT and runs every command below, printing
each before it runs, so that its output is the tutorial.  With 1,000 LoRAs (the default) it takes some ten minutes on
two cores; ``--loras 150`` shows the same in two.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

POLICY = """\
[policy]
# The people of the mini world are made up, so nobody has to be asked. Real people have: see `w2w-reg consent --help`.
unknown = ["register", "search", "train", "invert", "edit", "mix", "sample", "generate", "export"]
"""


@dataclass(frozen=True)
class Step:
    """A command as one would type it, and why."""

    why: str
    command: str


def steps(heldout: str) -> list[Step]:
    """Everything the tutorial does, in order; paths are relative to the folder it runs in."""
    photo = f"photos/{heldout}/00.png"
    base = "--pipeline pipeline --device cpu"
    return [
        Step("A registry is a folder.", "w2w-reg init"),
        Step(
            "Find the weight space that these LoRAs span. Second trainings of some of the same people teach it which "
            "components mean identity and which mean noise.",
            "w2w-reg space fit faces loras --repeats retrained --base-model w2w-registry/miniworld",
        ),
        Step("Everybody becomes a row with coordinates and labels.", "w2w-reg add loras --labels labels.csv"),
        Step("Who is this? A LoRA of p0007 from other photos finds p0007.", "w2w-reg search retrained/p0007 -k 3"),
        Step("Which way is a beard? Fitted on the labels, with its quality.", "w2w-reg direction fit beard"),
        Step("The same for a hat and for skin.", "w2w-reg direction fit hat"),
        Step("", "w2w-reg direction fit skin"),
        Step("What else does a beard move? Take that out.", "w2w-reg direction debias beard --against hat"),
        Step(
            "Learn where inversions should start, from photos of registered people.",
            f"w2w-reg initializer fit --photos photos {base}",
        ),
        Step(
            f"One photo of somebody no LoRA was ever shown to the space, {heldout}, becomes an identity.",
            f"w2w-reg invert {photo} --name {heldout} {base}",
        ),
        Step("Draw them. The pictures say who, how, and that a model made them.",
             f"w2w-reg generate {heldout} --out pictures/{heldout} --seeds 1-8 --guidance 2 {base}"),
        Step("Give them a beard, hold hat and skin still, and keep the result.",
             f"w2w-reg edit {heldout} --edit beard=on --keep hat,skin --name {heldout}-bearded"),
        Step("A strip over strength; the edit acts below timestep 900, so pose and background stay.",
             f"w2w-reg generate {heldout} --out pictures/strip --seeds 1-3 --edit beard=on --strengths 0:1.5:7 "
             f"--from-timestep 900 --guidance 2 {base}"),
        Step("Half of one, half of another.", "w2w-reg mix p0001 p0002 --weight 0.5 --name between"),
        Step("Ten people who do not exist, none near anybody registered.",
             "w2w-reg sample -n 10 --name nobody --min-distance 0.3 --seed 1"),
        Step("Train a LoRA from a folder of photos, straight into the space.",
             f"w2w-reg train photos/{heldout} --name {heldout}-trained --steps 150 --out trained {base}"),
        Step("Is that the person of the inverted photo?", f"w2w-reg search {heldout}-trained -k 3"),
        Step("Out again, as diffusers, PEFT or kohya load it.",
             f"w2w-reg export {heldout}-bearded out/{heldout} --format diffusers"),
        Step("And what it was made from.", f"w2w-reg show {heldout}-bearded"),
    ]  # fmt: skip


def run(out: Path, loras: int | None) -> None:
    """Unpack and run everything; the first command that fails ends it."""
    program = shutil.which("w2w-reg", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if program is None:
        raise SystemExit("w2w-reg is not installed: pip install -e '.[cpu,diffusion]'")
    world = [sys.executable, "-m", "examples.miniworld.unpack", str(out)]
    if loras is not None:
        world += ["--loras", str(loras)]
    print(f"$ {shlex.join(['python', *world[1:]])}", flush=True)
    subprocess.run(world, cwd=ROOT, check=True)
    home = out / "registry"
    heldout = sorted(p.name for p in (out / "heldout").iterdir())[0]
    environment = os.environ | {"W2W_HOME": str(home.resolve()), "W2W_ACTOR": "tutorial"}
    for step in steps(heldout):
        print(f"\n# {step.why}" if step.why else "", f"$ {step.command}", sep="\n", flush=True)
        words = shlex.split(step.command)
        subprocess.run([program, *words[1:]], cwd=out, env=environment, check=True)
        if words[1] == "init":
            (home / "registry.toml").write_text(POLICY, encoding="utf-8")


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--loras", type=int, help="only the first N identities")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    run(args.out, args.loras)


if __name__ == "__main__":
    main()
