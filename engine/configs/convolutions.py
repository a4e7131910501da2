"""Read from a stored kernel which library has stored it. Knows shapes; knows no arrays."""

from engine.config import ConfigReader
from engine.errors import CheckpointUnsupported


def are_channels_last(config: ConfigReader, ending: str) -> bool:
    """True where kernels are (channels, width, 1), as MLX writes them; PyTorch writes (channels, 1, width).

    ending: of the name of a kernel
    Raises CheckpointUnsupported where the shape does not tell.
    """
    shape = config.shape_of_first(ending)
    if shape is None:
        return False
    if len(shape) != 3 or 1 not in shape[1:] or shape[1:] == (1, 1):
        raise CheckpointUnsupported(ending.strip("."), shape, "(channels, 1, width) or (channels, width, 1)")
    return shape[2] == 1
