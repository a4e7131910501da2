"""RoBERTa (arXiv:1907.11692): BERT whose positions begin after the padding token's number."""

from engine.config import ConfigReader
from engine.layers.activations import ACTIVATIONS
from engine.layers.encoder import EncoderSpec, PostNormEncoder


class Model(PostNormEncoder):
    """The whole model."""

    renames = (
        ("roberta.", ""),
        ("embeddings.word_embeddings.", "words."),
        ("embeddings.position_embeddings.", "places."),
        ("embeddings.token_type_embeddings.", "types."),
        ("embeddings.LayerNorm.", "embedding_norm."),
        ("encoder.layer.", "layers."),
        (".attention.self.query.", ".attention.q_proj."),
        (".attention.self.key.", ".attention.k_proj."),
        (".attention.self.value.", ".attention.v_proj."),
        (".attention.output.dense.", ".attention.o_proj."),
        (".attention.output.LayerNorm.", ".attention_norm."),
        (".intermediate.dense.", ".mlp.fc1."),
        (".output.dense.", ".mlp.fc2."),
        (".output.LayerNorm.", ".mlp_norm."),
        ("classifier.dense.", "head.dense."),
        ("classifier.out_proj.", "head.out."),
    )
    dropped = ("lm_head.", "pooler.", "roberta.pooler.")

    def __init__(self, config: ConfigReader) -> None:
        config.choice("position_embedding_type", ("absolute",), "absolute")
        super().__init__(
            EncoderSpec(
                vocab_size=config.count("vocab_size"),
                hidden_size=config.count("hidden_size"),
                num_layers=config.count("num_hidden_layers"),
                num_heads=config.count("num_attention_heads"),
                inner_size=config.count("intermediate_size"),
                activation=config.choice("hidden_act", ACTIVATIONS, "gelu"),
                eps=config.number("layer_norm_eps", 1e-12),
                num_positions=config.count("max_position_embeddings", 514),
                position_offset=int(config.number("pad_token_id", 1)) + 1,
                num_types=config.count("type_vocab_size", 1),
                classifier="tanh" if config.stores("classifier.out_proj.weight") else None,
                num_labels=config.labels(),
            )
        )
