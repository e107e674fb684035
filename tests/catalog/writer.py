"""A process that writes: ``python -m tests.catalog.writer URL NAME COUNT`` prints each event it was acknowledged."""

from __future__ import annotations

import sys

from tests.catalog.build import add_version
from w2w_registry.audit.chain import event_hash
from w2w_registry.catalog.models import Label
from w2w_registry.catalog.resolve import space_for
from w2w_registry.catalog.session import Catalog
from w2w_registry.records import VersionState


def main(url: str, name: str, count: int) -> None:
    catalog = Catalog(url, event_hash=event_hash, busy_timeout=120)
    for i in range(count):
        with catalog.write(name) as uow:
            version = add_version(uow, f"{name}-{i}", space_for(uow.session, "faces"), labels={"n": float(i)})
            version.state = VersionState.BLOCKED
            uow.bulk_update(Label, uow.keys(Label, Label.version_id == version.id), {"number": -1.0})
            seq = uow.event("version.block", objects={"version": version.id})
        print(seq, version.id, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
