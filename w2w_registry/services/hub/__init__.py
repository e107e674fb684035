"""Publishing on the Hub: releases and spaces pushed and pulled, their signatures, takedowns, and the sync that makes
catalog and Hub agree. Plans, cards and the client are in ``w2w_registry.hub``."""
