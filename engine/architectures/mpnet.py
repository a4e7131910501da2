"""MPNet (arXiv:2004.09297): RoBERTa with one table of relative position biases for all layers."""

import mlx.core as mx

from engine.attention.attend import with_bias
from engine.config import ConfigReader
from engine.errors import CheckpointUnsupported
from engine.layers.activations import ACTIVATIONS
from engine.layers.encoder import EncoderSpec, PostNormEncoder
from engine.layers.linear import Embedding
from engine.layers.position import relative_buckets

_NUM_BUCKETS = 32
_MAX_DISTANCE = 128


class Model(PostNormEncoder):
    """The whole model."""

    renames = (
        ("mpnet.", ""),
        ("embeddings.word_embeddings.", "words."),
        ("embeddings.position_embeddings.", "places."),
        ("embeddings.LayerNorm.", "embedding_norm."),
        ("encoder.relative_attention_bias.", "distances."),
        ("encoder.layer.", "layers."),
        (".attention.attn.q.", ".attention.q_proj."),
        (".attention.attn.k.", ".attention.k_proj."),
        (".attention.attn.v.", ".attention.v_proj."),
        (".attention.attn.o.", ".attention.o_proj."),
        (".attention.LayerNorm.", ".attention_norm."),
        (".intermediate.dense.", ".mlp.fc1."),
        (".output.dense.", ".mlp.fc2."),
        (".output.LayerNorm.", ".mlp_norm."),
        ("classifier.dense.", "head.dense."),
        ("classifier.out_proj.", "head.out."),
    )
    dropped = ("lm_head.", "pooler.", "mpnet.pooler.")

    def __init__(self, config: ConfigReader) -> None:
        num_heads = config.count("num_attention_heads")
        super().__init__(
            EncoderSpec(
                vocab_size=config.count("vocab_size"),
                hidden_size=config.count("hidden_size"),
                num_layers=config.count("num_hidden_layers"),
                num_heads=num_heads,
                inner_size=config.count("intermediate_size"),
                activation=config.choice("hidden_act", ACTIVATIONS, "gelu"),
                eps=config.number("layer_norm_eps", 1e-12),
                num_positions=config.count("max_position_embeddings", 514),
                position_offset=int(config.number("pad_token_id", 1)) + 1,
                classifier="tanh" if config.stores("classifier.out_proj.weight") else None,
                num_labels=config.labels(),
            )
        )
        self._num_buckets = config.count("relative_attention_num_buckets", _NUM_BUCKETS)
        if self._num_buckets != _NUM_BUCKETS:  # transformers counts in 32 buckets, whatever the table has
            raise CheckpointUnsupported("relative_attention_num_buckets", self._num_buckets, str(_NUM_BUCKETS))
        self.distances = Embedding(self._num_buckets, num_heads)

    def attention_mask(self, mask: mx.array) -> mx.array:
        """Biases by distance, minus infinity at padding: (batch, num_heads, length, length)."""
        places = mx.arange(mask.shape[1])
        buckets = relative_buckets(places[None] - places[:, None], self._num_buckets, _MAX_DISTANCE, bidirectional=True)
        return with_bias(mask[:, None, None], self.distances(buckets).transpose(2, 0, 1)[None])
