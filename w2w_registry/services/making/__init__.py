"""Making new identities (training, inversion, edits along directions, mixtures, samples) and what is made from them
(pictures, exported LoRAs, evaluations). ``drafts`` is what all share: the sources, and the transaction at the end."""
