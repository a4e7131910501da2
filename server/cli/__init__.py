"""The command `bramley`."""
