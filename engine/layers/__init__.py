"""Building blocks of the architectures. They take numbers and arrays, never configuration objects."""
