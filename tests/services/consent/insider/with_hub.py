"""What an insider does with the Hub: publish, fetch again under another name, let sync push what was begun."""

from __future__ import annotations

from pathlib import Path

from tests.hub.local_hub import Visibility
from tests.services.consent.insider.play import Insider, move
from w2w_registry.services.hub.pull import pull
from w2w_registry.services.hub.pulling import PullRequest
from w2w_registry.services.hub.release import PushRequest, push
from w2w_registry.services.hub.release_files import Options
from w2w_registry.services.hub.sync import sync
from w2w_registry.services.hub.takedown import takedown


@move("push", weight=1.5)
def pushed(insider: Insider) -> None:
    name, repo = insider.name(), f"insider/{insider.fresh('repo')}"
    only = insider.rng.random() < 0.2
    push(insider.registry, insider.client, PushRequest(name, repo, options=Options(coordinates_only=only)))
    insider.judge(_fetched(insider, repo), f"push of {name}", insider.what(name))
    insider.repos[repo] = insider.what(name)
    insider.heads[repo] = len(insider.hub.history(repo))


def _fetched(insider: Insider, repo: str) -> Path:
    """The LoRAs of a repo, written down."""
    folder = insider.folder / repo.replace("/", "-")
    for path, content in insider.hub.files(repo).items():
        if path.endswith((".safetensors", "adapter_config.json")) and content is not None and "coordinates" not in path:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
    return folder


@move("pull", weight=1.5)
def pulled(insider: Insider) -> None:
    """One of the registry's own releases, or a file that somebody uploaded by hand."""
    if insider.repos and insider.rng.random() < 0.4:
        repo = insider.one(list(insider.repos))
        what = insider.repos[repo]
    else:
        path, what = insider.file()
        repo = f"insider/{insider.fresh('upload')}"
        _uploaded(insider, repo, path)
    name = insider.fresh("pulled")
    found = pull(insider.registry, insider.client, PullRequest(f"hf://{repo}", name=name, kind=insider.kind()))
    insider.came_in(found.version, what)


def _uploaded(insider: Insider, repo: str, path: Path) -> None:
    """A repo that nobody's registry made."""
    made = insider.hub.store.create(insider.owner, "insider", repo.partition("/")[2], Visibility.PUBLIC)
    files = [path] if path.is_file() else sorted(path.iterdir())
    add = {one.name: one.read_bytes() for one in files}
    insider.client.commit(repo, parent=made.branches["main"], add=add, message="upload")


@move("sync", weight=0.3)
def synced(insider: Insider) -> None:
    sync(insider.registry, insider.client, dry_run=False)
    for repo, what in insider.repos.items():
        if insider.hub.repo(repo) is None:
            continue
        commits = len(insider.hub.history(repo))
        if insider.heads.get(repo) != commits:
            insider.judge(_fetched(insider, repo), f"{repo} after sync", what)
        insider.heads[repo] = commits


@move("takedown", weight=0.2)
def taken_down(insider: Insider) -> None:
    takedown(insider.registry, insider.client, name=insider.name())
