"""DistilBERT (arXiv:1910.01108): a BERT of half the layers, without kinds of text."""

from engine.config import ConfigReader
from engine.layers.activations import ACTIVATIONS
from engine.layers.encoder import EncoderSpec, PostNormEncoder


class Model(PostNormEncoder):
    """The whole model."""

    renames = (
        ("distilbert.", ""),
        ("embeddings.word_embeddings.", "words."),
        ("embeddings.position_embeddings.", "places."),
        ("embeddings.LayerNorm.", "embedding_norm."),
        ("transformer.layer.", "layers."),
        (".attention.q_lin.", ".attention.q_proj."),
        (".attention.k_lin.", ".attention.k_proj."),
        (".attention.v_lin.", ".attention.v_proj."),
        (".attention.out_lin.", ".attention.o_proj."),
        (".sa_layer_norm.", ".attention_norm."),
        (".ffn.lin1.", ".mlp.fc1."),
        (".ffn.lin2.", ".mlp.fc2."),
        (".output_layer_norm.", ".mlp_norm."),
        ("pre_classifier.", "head.dense."),
        ("classifier.", "head.out."),
    )
    dropped = ("vocab_transform.", "vocab_layer_norm.", "vocab_projector.")

    def __init__(self, config: ConfigReader) -> None:
        super().__init__(
            EncoderSpec(
                vocab_size=config.count("vocab_size"),
                hidden_size=config.count("dim", 768),
                num_layers=config.count("n_layers", 6),
                num_heads=config.count("n_heads", 12),
                inner_size=config.count("hidden_dim", 3072),
                activation=config.choice("activation", ACTIVATIONS, "gelu"),
                eps=1e-12,
                num_positions=config.count("max_position_embeddings", 512),
                classifier="relu" if config.stores("classifier.weight") else None,
                num_labels=config.labels(),
            )
        )
