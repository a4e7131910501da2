"""Types of the wire that rooms below the APIs read too. No behaviour."""
