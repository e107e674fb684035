"""The commands by section of ``w2w-reg --help``: what people come to do, in the order they do it."""

from __future__ import annotations

SECTIONS: dict[str, dict[str, str]] = {
    "Start": {
        "init": "Create a registry: home folder, catalog, policy file.",
        "add": "Add adapters: plan, fit spaces, register everything.",
        "search": "Find the identities nearest to identities or adapter files.",
        "list": "List identities, filtered and sorted.",
        "show": "Show one identity with its versions.",
        "serve": "Show the registry in a browser, and serve its API.",
        "doctor": "Check that everything this registry needs is in order.",
        "stats": "Count what is in the registry.",
    },
    "Describe": {
        "label": "Set, unset, import and export labels of identities.",
        "tag": "Set and unset tags of identities.",
        "note": "Write, show or remove a note on an identity.",
        "rate": "Rate identities, and mark favourites.",
        "collection": "Group identities under a name.",
        "alias": "Set and unset aliases: movable names for versions.",
        "rename": "Rename an identity.",
        "preview": "Set and draw the preview pictures of versions.",
        "history": "Show which version each alias pointed to, and when.",
        "remove": "Remove an identity from the registry.",
    },
    "Weight spaces and likeness": {
        "space": "Fit, update, import, list, show, map and export weight spaces.",
        "fingerprint": "Fingerprint versions by what each makes the base model draw.",
        "calibrate": "Learn from repeat trainings which fingerprints belong to the same person.",
        "groups": "Find identities that are the same person under several names.",
        "duplicates": "Show which versions are the same model.",
        "diff": "Show how two versions differ.",
    },
    "Make": {
        "train": "Train LoRAs of one or many identities from photos.",
        "invert": "Turn photos into identities.",
        "initializer": "Fit the initializer that inversions start from.",
        "direction": "Fit, list, show, compose and de-bias attribute directions.",
        "edit": "Move an identity along attribute directions.",
        "mix": "Mix identities.",
        "sample": "Make new identities from a space.",
        "generate": "Generate pictures of an identity.",
        "evaluate": "Measure a space's inversions, edits and samples.",
        "export": "Write an identity as a LoRA or as coordinates.",
    },
    "Consent and people": {
        "subject": "Register, list, show and protect subjects.",
        "consent": "Ask for, record, check and withdraw consent.",
        "resolve": "Decide whom a held version depicts.",
        "policy": "Show and change what this registry allows.",
        "whose": "Find out whose picture this is, how it was made, and what they agreed to.",
        "detect": "Check pictures for the mark that generated pictures carry.",
        "takedown": "Take releases off the Hub, and check that they are gone.",
    },
    "Share": {
        "push": "Publish an identity on the Hugging Face Hub.",
        "push-space": "Publish a weight space on the Hub.",
        "pull": "Register the identity that a Hub repo publishes.",
        "sync": "Reconcile the catalog with the Hub.",
        "releases": "List what is published.",
        "sign": "Sign an exported folder.",
        "verify": "Verify a signed folder, or a registered version.",
    },
    "Prove": {
        "audit": "Sign, verify, prove, export and query the audit log.",
        "lineage": "Show what a version was made from, or what was made from it.",
        "manifest": "Print the manifest of a version: everything that determines it.",
        "replay": "Recompute a version from its recorded inputs.",
        "report": "Write reports for decision-makers and for the people depicted.",
    },
    "Keep": {
        "config": "Show and change settings: base models, database, Hub.",
        "backup": "Back up the registry to one file: catalog, files, keys, settings.",
        "restore": "Restore a registry from a backup.",
        "copy-to": "Copy the catalog to another database, and compare the two.",
        "db": "Upgrade, inspect and check the catalog's schema.",
        "index": "Maintain the search indexes.",
        "gc": "Delete stored files that nothing refers to.",
    },
}
"""Commands with their one-line help, which stands here so that `w2w-reg --help` imports no command."""

COMMANDS = {name: text for section in SECTIONS.values() for name, text in section.items()}

EXAMPLES = (
    "w2w-reg add ~/loras --yes",
    "w2w-reg search alice",
    "w2w-reg list 'acme/*' --columns identity,aliases,tags",
    "w2w-reg export alice out/ --format diffusers",
)
