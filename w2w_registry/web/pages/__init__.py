"""The pages: one module per place, each with a ``router``. Every form passes ``own_form`` first."""

from w2w_registry.web.pages import (
    actions,
    browse,
    compliance,
    drawing,
    files,
    identity,
    make,
    reference,
    selection,
    spaces,
    who,
)

_MODULES = (browse, identity, who, make, drawing, spaces, compliance, actions, selection, reference, files)
ROUTES = [route for module in _MODULES for route in module.router.routes]
