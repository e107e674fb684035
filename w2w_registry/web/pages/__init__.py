"""The pages: one module per place, each with a ``router``. Every form passes ``own_form`` first."""

from w2w_registry.web.pages import actions, browse, files, identity

ROUTES = [route for module in (browse, identity, actions, files) for route in module.router.routes]
