"""The gallery: pages and an API above the services. It parses, calls one service and shows; every rule is theirs.

``guard`` stands before everything (host, origin, who asks, how much may be sent), ``access`` says who may do what,
``app`` puts the routes together, ``problems`` says what went wrong without saying where.
"""
