"""The parts that several APIs use."""
