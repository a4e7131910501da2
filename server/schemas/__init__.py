"""The wire types: what requests may hold and what answers look like. No behaviour beyond validation."""
