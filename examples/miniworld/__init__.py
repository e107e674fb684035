"""A small world of procedural faces with exact ground truth, for identity models that need nobody's consent."""
