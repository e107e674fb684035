"""What is done with a selection: tag it, collect it, take it away as files, mix it, withdraw whom it depicts."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from tempfile import SpooledTemporaryFile
from typing import Annotated, Any, Final

from fastapi import Form
from fastapi.responses import RedirectResponse, Response, StreamingResponse

from w2w_registry.errors import RegistryError, UsageError
from w2w_registry.services.identities import bulk, manage
from w2w_registry.services.synthesis import export
from w2w_registry.web.access import Right
from w2w_registry.web.pages.actions import split
from w2w_registry.web.problems import problem_of
from w2w_registry.web.site import Desk, Make, not_theirs, page_router, url

router = page_router()
MAX_EXPORT: Final = 200
IN_MEMORY: Final = 32 << 20


@router.post("/selection")
def selection(
    desk: Make,
    action: Annotated[str, Form(max_length=20)],
    identity: Annotated[list[str] | None, Form()] = None,
    tags: Annotated[str, Form(max_length=2000)] = "",
    collection: Annotated[str, Form(max_length=200)] = "",
    back: Annotated[str, Form(max_length=4000)] = "/",
) -> Response:
    """Carry out ``action`` on the identities that were ticked."""
    names = list(dict.fromkeys(identity or ()))
    if not names:
        raise UsageError(reason="nobody is selected", hint="tick somebody first")
    if action == "export":
        return _export(desk, names)
    if action == "mix":
        return RedirectResponse(url("/make", people="\n".join(names)) + "#mix", 303)
    if action == "withdraw":
        return _withdraw(desk, names)
    wanted = split(tags) if action == "tag" else []
    if action == "collect" and collection.strip():
        bulk.collect(desk.registry, collection.strip(), names)
    elif not wanted:
        raise UsageError(reason="say which tags to set, as in team=ads, or a collection's name")
    else:
        manage.parse_tags(wanted)
        for name in names:
            manage.set_tags(desk.registry, name, wanted)
    # Only a place in this gallery: two slashes would name another host.
    place = "/" + back.lstrip("/\\")
    did = "&did=collected" if action == "collect" else ""
    return RedirectResponse(f"{place}{'&' if '?' in place else '?'}done={len(names)}{did}", 303)


def _export(desk: Desk, names: list[str]) -> Response:
    """A zip with a PEFT folder of each; whoever consent keeps back is named in NOT-EXPORTED.txt."""
    if len(names) > MAX_EXPORT:
        raise UsageError(reason=f"at most {MAX_EXPORT} at once", hint="`w2w-reg export` takes them one by one")
    packed = SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115 - closed when the answer has been sent
    refused: list[tuple[str, RegistryError]] = []
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name in names:
            try:
                _pack(desk, name, archive)
            except RegistryError as error:
                refused.append((name, error))
        if refused:
            lines = [f"{name}: {problem_of(error).detail}\n" for name, error in refused]
            archive.writestr("NOT-EXPORTED.txt", "".join(lines))
    if len(refused) == len(names):
        packed.close()
        raise refused[0][1]
    packed.seek(0)
    headers = {"content-disposition": 'attachment; filename="identities.zip"'}
    return StreamingResponse(_pieces(packed), media_type="application/zip", headers=headers)


def _pack(desk: Desk, name: str, archive: zipfile.ZipFile) -> None:
    with desk.registry.temporary_folder() as folder:
        export.export(desk.registry, name, str(folder))
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, f"{name}/{path.relative_to(folder).as_posix()}")


def _pieces(packed: Any) -> Iterator[bytes]:
    with packed:
        while piece := packed.read(1 << 20):
            yield piece


def _withdraw(desk: Desk, names: list[str]) -> Response:
    """On to the plan of the one subject a selection depicts."""
    if Right.STEWARD not in desk.who.rights:
        raise not_theirs(desk, Right.STEWARD)
    subjects = {subject for name in names for subject in manage.show(desk.registry, name)["subjects"]}
    return desk.page("withdraw_whom.html", names=names, subjects=sorted(subjects))
