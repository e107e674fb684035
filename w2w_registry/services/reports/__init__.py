"""Reports for people outside: the subject, the decider."""
